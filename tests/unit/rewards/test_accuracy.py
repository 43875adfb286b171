"""Math verdicts: exact for numbers, algebra for the rest, and every failure named for what it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline_lib.rewards.accuracy import (
    REWARD,
    Kind,
    Question,
    judge_quickly,
    kind_of,
    verdict_of,
    verify_math,
)
from pipeline_lib.rewards.math_pool import Comparison, MathPool
from pipeline_lib.rewards.registry import Sample, ScoreSettings
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Verdict


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1, seconds=10.0) as running:
        yield running


@pytest.mark.parametrize(
    ("expected", "kind"),
    [
        *(
            ("6", Kind.NUMBER),
            ("1,234", Kind.NUMBER),
            ("\\frac{1}{2}", Kind.NUMBER),
            ("90^\\circ", Kind.NUMBER),
        ),
        *(
            ("x^2+1", Kind.MATH),
            ("(1,2)", Kind.MATH),
            ("\\sqrt{2}", Kind.MATH),
            ("x", Kind.MATH),
            ("2\\pi", Kind.MATH),
            ("x ≤ 2", Kind.MATH),
            ("Max(1, 2)", Kind.MATH),
            ("\\text{the} x", Kind.MATH),
        ),
        *(
            ("C", Kind.TEXT),
            ("\\(C\\)", Kind.TEXT),
            ("", Kind.TEXT),
            ("\\text{Evelyn}", Kind.TEXT),
            ("even", Kind.TEXT),
            ("巴黎", Kind.TEXT),
            ("x-ray", Kind.TEXT),
        ),
    ],
)
def test_kind_of(expected: str, kind: Kind) -> None:
    assert kind_of(expected) is kind


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        *(
            ("6", "6", True),
            ("6", "6.0", True),
            ("6", "5", False),
            ("6", "7", False),
            ("1234", "1,234", True),
            ("18", "$18", True),
        ),
        *(
            ("6", "six", False),
            ("6", "3+3", False),
            ("6", "6 or 5", False),
            ("6", "６", False),
            ("6", "得6", False),
        ),
        *(("0.5", "\\frac{1}{2}", True), ("6", "6" * 3000, False), ("7", "{" * 500, False)),
        *(
            ("C", "(C)", True),
            ("C", "c.", True),
            ("C", "D", False),
            ("C", "C or D", False),
            ("C", "CC", False),
            ("c.", "C", True),
            ("c.", "\\text{C}", True),
            ("Evelyn", "\\(Evelyn\\)", True),
            ("x^2", "\\(\\)", False),
            ("Evelyn", " EVELYN ", True),
        ),
        *(("\\text{Evelyn}", "evelyn", True), ("Evelyn", "Evelyn or Bob", False), ("x^2", "x^2", True)),
        *(
            ("x^2", "the square", False),
            ("x^2", "得", False),
            ("x^2+1", "x^2 = x^2+1", False),
            ("x^2+1", "y = x = x^2+1", False),
        ),
    ],
)
def test_no_algebra_needed(expected: str, answer: str, right: bool) -> None:
    verdict = judge_quickly(expected, answer)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is (Outcome.CORRECT if right else Outcome.WRONG)


def _quickly(expected: str, answer: str) -> Verdict:
    verdict = judge_quickly(expected, answer)
    assert isinstance(verdict, Verdict)
    return verdict


def test_an_answer_has_two_thousand_characters_at_most() -> None:
    assert _quickly("a" * 2000, "a" * 2000).outcome is Outcome.CORRECT
    longer = _quickly("a" * 2001, "a" * 2001)
    assert longer.outcome is Outcome.WRONG
    assert longer.extracted == "a" * 200
    assert longer.detail == "longer than 2000 characters"


def test_evidence_says_what_was_wrong_with_an_answer() -> None:
    assert _quickly("6", "7").detail == ""
    assert _quickly("6", "seven").detail == "not a number"
    assert _quickly("x^2", "the square").detail == "words where mathematics is expected"
    assert _quickly("x^2+1", "x = y = 1").detail == "an equation where one expression is expected"


@pytest.mark.parametrize(
    "make",
    [
        lambda deep: "{" * deep + "1" + "}" * deep,
        lambda deep: "([" * (deep // 2) + "(" * (deep % 2) + "x",
        lambda deep: "x" + "^x" * deep,
        lambda deep: "x_{1}+2" + "_ y^ \\alpha" * (deep // 2) + "^1" * (deep % 2),
        lambda deep: "\\frac{1}{1+" * deep + "x" + "}" * deep,
        lambda deep: ")]}" * 9 + "(" * deep,
        lambda deep: "[[][[]" + "(()" + "{{}" + "[" * (deep - 4),
        lambda deep: "()" * 40 + "x^2+x^3" * 40 + "(" * deep,
    ],
)
def test_what_is_nested_deeper_than_any_honest_answer_is_wrong(make: Callable[[int], str]) -> None:
    """A parser would take seconds or for ever, and what it does not end in time is masked."""
    assert isinstance(judge_quickly("x^2+1", make(10)), Question)
    assert _quickly("x^2+1", make(11)).outcome is Outcome.WRONG
    assert _quickly("x^2+1", make(11)).detail == "nested 11 deep"
    assert _quickly("x^2+1", make(150)).detail == "nested 150 deep"
    gold = "((" * 7 + "x" + "))" * 7
    assert isinstance(judge_quickly(gold, make(14)), Question)
    assert _quickly(gold, make(15)).detail == "nested 15 deep"


def test_dollars_and_names_are_taken_off_before_algebra() -> None:
    assert judge_quickly("$x^2$", "$$ y = x + x^2 $$") == Question("x^2", " x + x^2")
    assert judge_quickly("y = x^2", "\\(y = x\\)") == Question("y = x^2", "y = x")
    assert judge_quickly(" \\[x^2\\] ", "f(x)=x") == Question("x^2", "x")
    assert judge_quickly("$x^2$", "x+1$") == Question("x^2", "x+1")
    assert judge_quickly("$$x^2$$", "\\(\\)x") == Question("x^2", "\\(\\)x")


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ("equal", Outcome.CORRECT),
        ("different", Outcome.WRONG),
        ("unparsed", Outcome.UNPARSED),
        ("timeout", Outcome.TIMEOUT),
        ("error", Outcome.VERIFIER_ERROR),
    ],
)
def test_what_the_verifier_says_becomes_a_verdict_with_its_evidence(result: str, outcome: Outcome) -> None:
    verdict = verdict_of(Question("x^2", "x"), "y = x", Comparison(result, "said so"))
    assert verdict == Verdict(outcome, "y = x", detail="said so")


def test_a_key_that_cannot_be_parsed_is_named() -> None:
    verdict = verdict_of(Question("x^{", "x"), "x", Comparison("gold_unparsed", "said so"))
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert verdict.detail == "the expected answer 'x^{' cannot be parsed"


@pytest.mark.parametrize(
    ("expected", "answer", "outcome"),
    [
        ("x^2+1", "1+x^2", Outcome.CORRECT),
        ("\\frac{x}{2}", "0.5x", Outcome.CORRECT),
        ("\\sqrt{8}", "2\\sqrt{2}", Outcome.CORRECT),
        ("(1,2)", "(1, 2)", Outcome.CORRECT),
        ("\\{1,2\\}", "\\{2,1\\}", Outcome.CORRECT),
        ("x^2+1", "x^2", Outcome.WRONG),
        ("2\\pi", "6.28", Outcome.WRONG),
        ("x^2+1", "\\frac{", Outcome.UNPARSED),
        ("x^2+1", "x^{", Outcome.UNPARSED),
        ("x^{", "x", Outcome.VERIFIER_ERROR),
        ("\\sqrt{2}", "\\sqrt{2}, \\sqrt{3}", Outcome.WRONG),
        ("\\sqrt{2}", "\\sqrt{3} or \\sqrt{2}", Outcome.WRONG),
        ("\\sqrt{2}", "\\sqrt{3}$ $\\sqrt{2}", Outcome.WRONG),
        ("\\sqrt{2}", "\\boxed{\\sqrt{3}} \\boxed{\\sqrt{2}}", Outcome.WRONG),
        ("x^2+1", "y = x^2+1", Outcome.CORRECT),
        ("x^2+1", "f(x) = x^2+1", Outcome.CORRECT),
    ],
)
def test_algebra(pool: MathPool, expected: str, answer: str, outcome: Outcome) -> None:
    assert isinstance(judge_quickly(expected, answer), Question)
    assert verify_math(expected, answer, pool).outcome is outcome


def test_a_hard_deadline_off_the_main_thread(pool: MathPool) -> None:
    """SIGALRM cannot do this: the comparison runs away, in a thread, and is killed."""
    impatient = MathPool(workers=1, seconds=1.5)
    results: list[Verdict] = []
    try:
        impatient.compare("1", "1")  # start-up is not part of the deadline
        started = time.monotonic()
        thread = threading.Thread(
            target=lambda: results.append(verify_math("x+1", "9^{9^{9^{9}}}", impatient))
        )
        thread.start()
        thread.join()
        assert results[0].outcome is Outcome.TIMEOUT
        assert time.monotonic() - started < 10
        assert verify_math("x+1", "1+x", impatient).outcome is Outcome.CORRECT, (
            "the killed worker was not replaced"
        )
    finally:
        impatient.close()


def test_a_dead_worker_is_replaced_and_the_answer_judged() -> None:
    with MathPool(workers=1, seconds=10.0) as fresh:
        fresh.compare("1", "1")
        process = fresh._workers[0]._process
        assert process is not None
        process.kill()
        process.wait()
        assert verify_math("x+1", "1+x", fresh).outcome is Outcome.CORRECT
        assert verify_math("x+1", "x", fresh).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("problem", "points"),
    [
        (Problem("m", Domain.MATH, "?", answer="3"), 1.0),
        (Problem("c", Domain.CODE, "?", tests=("assert f(1) == 2",), entry_point="f"), 1.0),
        (Problem("o", Domain.GENERAL, "?"), 0.0),
    ],
)
def test_accuracy_is_for_what_has_a_key(problem: Problem, points: float) -> None:
    done = Completion("p", (), (0,), (0.0,), "x", True)
    for outcome in Outcome:
        score = REWARD.score(Sample(problem, done, "x", Verdict(outcome), ScoreSettings()))
        assert score == (points if outcome is Outcome.CORRECT else 0.0)


def _question(gold: str, answer: str) -> Question:
    said = judge_quickly(gold, answer)
    assert isinstance(said, Question), said
    return said


def test_a_capital_whose_small_letter_is_there_gets_a_letter_that_nobody_uses() -> None:
    """math-verify takes `A` for `a`."""
    assert _question("A+B", "a+b") == Question("k+m", "a+b")
    assert _question("k+K", "K+m") == Question("k+n", "n+m")
    assert _question("a+A+K", "A+a") == Question("a+m+K", "m+a")
    assert _question("\\Delta x", "\\delta x") == Question(" k x", "\\delta x")
    assert _question("A+1", "1+A") == Question("A+1", "1+A")


def test_letters_may_just_suffice_and_too_many_are_wrong() -> None:
    used = "+".join("kmnpqrstuvwxyzabcf")
    said = _question(f"d+e+i+o+{used}", "D+E+I+O")
    assert said == Question(f"d+e+i+o+{used}", "g+h+j+l")
    assert judge_quickly(f"d+e+i+o+g+{used}", "D+E+I+O") == Verdict(
        Outcome.WRONG, "D+E+I+O", detail="too many letters"
    )


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("x+1", "$x+1$"),
        ("$x+1$", "x+1"),
        ("x  + 1", "x + 1"),
        ("x+1\\text{ Cm}", "x+1\\text{ cm}"),
        ("x+1\\text{ cm}", "x+1 cm"),
    ],
)
def test_a_formula_that_differs_in_its_surroundings_only_needs_no_algebra(expected: str, answer: str) -> None:
    assert judge_quickly(expected, answer) == Verdict(Outcome.CORRECT, answer)


def test_text_is_compared_for_equality_and_a_functions_name_alone_is_text() -> None:
    assert judge_quickly("Evelyn", "Adam").outcome is Outcome.WRONG
    assert kind_of("sin") is Kind.TEXT
