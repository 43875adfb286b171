"""Adding up: weights, masks, learned parts, and what a model cannot talk us into."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import psutil
import pytest

from pipeline_lib.errors import ConfigError, NonFiniteError
from pipeline_lib.rewards.combine import Scorer, without_time
from pipeline_lib.rewards.counter import VerdictCounter
from pipeline_lib.rewards.overlong import overlong_penalty
from pipeline_lib.rewards.registry import ScoreSettings, reward_parts
from pipeline_lib.rewards.response import AnswerStyle
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Verdict

MATH = Problem("m", Domain.MATH, "?", answer="3")
CODE = Problem("c", Domain.CODE, "?", tests=("assert f(1) == 2", "assert f(5) == 6"), entry_point="f")
GENERAL = Problem("g", Domain.GENERAL, "?", answer="I cannot help with that.")
OPEN = Problem("o", Domain.GENERAL, "?")
WEIGHTS = {"accuracy": 1.0, "format": 0.1}


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(ScoreSettings(max_new_tokens=10, overlong_buffer=4), workers=1) as running:
        yield running


def _completion(text: str, tokens: int = 5, finished: bool = True) -> Completion:
    return Completion("p", (), tuple(range(tokens)), (0.0,) * tokens, text, finished)


def _total(scorer: Scorer, problem: Problem, text: str, weights: dict[str, float] = WEIGHTS) -> float:
    return scorer.score_batch([problem], [_completion(text)], weights)[0].total


def test_every_part_is_found() -> None:
    assert set(reward_parts()) == {"accuracy", "format", "language", "overlong", "repetition"}


def test_a_batch_of_all_domains_in_order(scorer: Scorer) -> None:
    texts = [
        "<think>so 3</think><answer>3</answer>",
        "<think></think><answer>def f(x):\n return x+1</answer>",
        "<think></think><answer>def f(x):\n return 2</answer>",
        "<think></think><answer>i cannot help with that</answer>",
        "<think></think><answer>use a match.</answer>",
        "<think></think><answer>anything</answer>",
    ]
    rewards = scorer.score_batch(
        [MATH, CODE, CODE, GENERAL, GENERAL, OPEN], [*map(_completion, texts)], WEIGHTS
    )
    assert [round(reward.total, 6) for reward in rewards] == [1.1, 1.1, 0.1, 1.1, 0.1, 0.1]
    assert rewards[2].verdict.failed_test == "assert f(5) == 6"
    assert rewards[2].verdict.extracted == "def f(x):\n return 2"
    assert not any(reward.masked for reward in rewards)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("<think>a</think><answer>3</answer>", 1.1),
        ("<think>a</think><answer>3</answer> and nothing else", 1.0),
        ("<answer>3</answer>", 1.0),
        ("<think>a</think><answer>3</answer><answer>4</answer>", 0.0),
        ("<think>a</think><answer>3</answer><answer>3</answer>", 0.0),
        ("<think><answer>3</answer></think>", 0.0),
        ("<think>a</think><answer>3 or 4</answer>", 0.1),
        ("<think>a</think><answer>1+2</answer>", 0.1),
        ("<think>a</think><answer>３</answer>", 0.1),
        ("<think>a</think><answer>三</answer>", 0.1),
        ("<think>a</think><answer>[0,1,2,3]</answer>", 0.1),
        ("<think>a</think><answer>the answer</answer>", 0.1),
        ("3", 0.0),
        ("", 0.0),
    ],
)
def test_what_a_response_cannot_talk_us_into(scorer: Scorer, text: str, total: float) -> None:
    assert _total(scorer, MATH, text) == pytest.approx(total)


def test_language_reward_reads_the_thought_only(scorer: Scorer) -> None:
    weights = {"language": 1.0}
    assert _total(scorer, MATH, "<think>so 得</think><answer>3</answer>", weights) == 0.5
    assert _total(scorer, MATH, "<think>so</think><answer>得得得</answer>", weights) == 1.0
    assert _total(scorer, MATH, "<think>3 + 4 = 0</think><answer>3</answer>", weights) == 1.0


def test_overlong(scorer: Scorer) -> None:
    text, weights = "<answer>3</answer>", {"overlong": 1.0}
    lengths = [scorer.score_batch([MATH], [_completion(text, n)], weights)[0].total for n in (5, 6, 8, 10)]
    assert lengths == [0.0, 0.0, -0.5, -1.0]
    assert scorer.score_batch([MATH], [_completion(text, 10, finished=False)], weights)[0].total == -1.0


def test_learned_parts_are_weighted_and_checked(scorer: Scorer) -> None:
    texts = [_completion("<think>a</think><answer>3</answer>")] * 2
    weights = {"accuracy": 1.0, "helpfulness": 0.5}
    rewards = scorer.score_batch([MATH] * 2, texts, weights, {"helpfulness": [2.0, -2.0]})
    assert [reward.total for reward in rewards] == [2.0, 0.0]
    assert rewards[0].parts == {"accuracy": 1.0, "helpfulness": 1.0}
    for extra, told in (
        ({}, "rewards.helpfulness = 0.5: nobody computes it"),
        ({"helpfulness": [1.0]}, "extra_parts.helpfulness = 1: must hold one number for each of 2"),
        ({"helpfulness": [1.0] * 3}, "extra_parts.helpfulness = 3: must hold one number for each of 2"),
    ):
        with pytest.raises(ConfigError, match=told):
            scorer.score_batch([MATH] * 2, texts, weights, extra)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_learned_part_that_is_not_finite_names_problem_and_sample(scorer: Scorer, bad: float) -> None:
    problems = [CODE, OPEN, MATH, MATH, MATH]
    extra = {"helpfulness": [1.0, 1.0, 1.0, bad, bad]}
    with pytest.raises(NonFiniteError, match=f"problem {MATH.id}, sample 1: the learned reward helpfulness"):
        scorer.score_batch(problems, [_completion("x")] * 5, {"helpfulness": 1.0}, extra)


def test_a_weight_of_zero_leaves_a_part_out(scorer: Scorer) -> None:
    reward = scorer.score_batch(
        [MATH], [_completion("<answer>3</answer>")], {"accuracy": 1.0, "safety": 0.0}
    )[0]
    assert reward.parts == {"accuracy": 1.0}


def test_what_cannot_be_judged_is_masked(scorer: Scorer) -> None:
    broken = Problem("b", Domain.CODE, "?", tests=("assert f(",), entry_point="f")
    nothing = Problem("n", Domain.MATH, "?")
    text = _completion("<think></think><answer>def f(x): return 1</answer>")
    rewards = scorer.score_batch([broken, nothing, CODE], [text] * 3, WEIGHTS)
    assert [reward.masked for reward in rewards] == [True, True, False]
    assert rewards[0].verdict.outcome is Outcome.VERIFIER_ERROR


def test_prefilled_thought_and_other_styles() -> None:
    with Scorer(think_prefilled=True) as prefilled:
        assert _total(prefilled, MATH, "a</think><answer>3</answer>") == pytest.approx(1.1)
    with Scorer(answer_style=AnswerStyle.BOXED) as boxed:
        assert _total(boxed, MATH, "so \\boxed{3}", {"accuracy": 1.0}) == 1.0


def test_equal_answers_are_judged_once(scorer: Scorer) -> None:
    text = "<think>{}</think><answer>def f(x):\n return x + 1 + 0</answer>"
    verdicts = scorer.verify_batch([CODE] * 5, [text.format(i) for i in range(5)])
    assert len({verdict.seconds for verdict in verdicts}) == 1
    assert {verdict.outcome for verdict in verdicts} == {Outcome.CORRECT}


def test_repeats_and_failures_leave_every_row_in_its_place(scorer: Scorer) -> None:
    texts = ["<answer>3</answer>", "no answer", "<answer>3</answer>", "no answer", "<answer>4</answer>"]
    before = scorer.counter.total
    verdicts = scorer.verify_batch([MATH] * 5, texts)
    correct, wrong = Outcome.CORRECT, Outcome.WRONG
    assert [verdict.outcome for verdict in verdicts] == [correct, wrong, correct, wrong, wrong]
    assert scorer.counter.total == before + 5
    with pytest.raises(ValueError, match="longer"):
        scorer.verify_batch([MATH], texts)


def test_programs_and_algebra_are_settled_in_one_batch(scorer: Scorer) -> None:
    formula = Problem("f", Domain.MATH, "?", answer="x^2+1")
    answers = ["1+x^2", "def f(x):\n return x+1", "x^2", "def f(x):\n return 7"]
    verdicts = scorer.verify_batch(
        [formula, CODE, formula, CODE], [f"<think></think><answer>{a}</answer>" for a in answers]
    )
    assert [v.outcome for v in verdicts] == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG]
    assert [v.extracted for v in verdicts] == answers


def test_code_has_its_own_style_limits_and_fence() -> None:
    fence = "```python\ndef f(x):\n{}\n```"
    limits = Limits(output_bytes=1000)
    with Scorer(code_style=AnswerStyle.CODE_BLOCK, limits=limits, workers=1) as own:
        right, chatty, number = own.verify_batch(
            [CODE, CODE, MATH],
            [fence.format(" return x+1"), fence.format(" return 'x' * 2000"), "<answer>3</answer>"],
        )
    assert right.outcome is number.outcome is Outcome.CORRECT
    assert chatty.detail == "it returned more than the output limit"
    with Scorer(workers=1) as tagged:
        assert _total(tagged, CODE, f"<answer>{fence.format(' return x+1')}</answer>", {"accuracy": 1.0}) == 1


@pytest.mark.parametrize(
    "problem", [Problem("e", Domain.CODE, "?", entry_point="f"), Problem("t", Domain.CODE, "?", tests=("x",))]
)
def test_a_program_without_tests_or_name_cannot_be_judged(scorer: Scorer, problem: Problem) -> None:
    (verdict,) = scorer.verify_batch([problem], ["<answer>def f(x): return x</answer>"])
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert verdict.detail == f"problem {problem.id!r} has no tests or no entry point"


def test_nothing_is_left_running() -> None:
    mine, threads = psutil.Process(), set(threading.enumerate())
    before = _below(mine, set())
    formula = Problem("f", Domain.MATH, "?", answer="x^2+1")
    with Scorer(workers=1) as busy:
        busy.verify_batch([formula, CODE], ["<answer>1+x^2</answer>", "<answer>def f(x): return 1</answer>"])
        assert len(_below(mine, before)) >= 2
    assert _below(mine, before) == set()
    assert set(threading.enumerate()) <= threads


def _below(process: psutil.Process, known: set[int]) -> set[int]:
    """What descends from the process, except through one of `known`: another test's service starts children at any time."""
    try:
        children = [child for child in process.children() if child.pid not in known]
    except psutil.NoSuchProcess:
        return set()
    return {child.pid for child in children}.union(*(_below(child, known) for child in children))


def test_a_prefilled_thought_is_not_opened_twice() -> None:
    with Scorer(think_prefilled=True) as prefilled:
        assert _total(prefilled, MATH, " \n<think>a</think><answer>3</answer>") == pytest.approx(1.1)


def test_a_scorer_warns_above_five_in_a_hundred() -> None:
    lost, good = Verdict(Outcome.TIMEOUT), Verdict(Outcome.CORRECT)
    with Scorer() as fresh:
        assert not fresh.counter.add([lost] * 5 + [good] * 95)
        assert fresh.counter.add([lost] * 6 + [good] * 94)


def test_a_counter_begins_at_nothing_and_keeps_the_last_evidence(caplog: pytest.LogCaptureFixture) -> None:
    counter = VerdictCounter(alarm_share=0.75)
    assert (counter.total, counter.masked_share, counter.last_masked) == (0, 0.0, "")
    lost = Verdict(Outcome.UNPARSED, "x^{")
    with caplog.at_level(logging.WARNING):
        assert not counter.add([lost] * 19), "a batch below twenty says nothing"
        assert counter.add([lost] * 20)
    assert not counter.add([Verdict(Outcome.CORRECT, "3")] * 41)
    assert (counter.total, counter.masked_share) == (80, 39 / 80)
    assert counter.last_masked == "unparsed: x^{"
    assert "could not judge 20 of 20 samples (alarm above 75%); last: unparsed: x^{" in caplog.text
    counter.add([Verdict(Outcome.TIMEOUT, "7", detail="d" * 400)])
    assert counter.last_masked == "timeout: " + "d" * 291
    counter.add([Verdict(Outcome.TIMEOUT)])
    assert counter.last_masked == "timeout: "


@pytest.mark.parametrize(
    ("tokens", "limit", "buffer", "finished", "penalty"),
    [
        (10**6, 0, 4, False, 0.0),  # no limit known
        (1, 1, 0, True, 0.0),
        (2, 1, 0, True, -1.0),
        (6, 10, 4, True, 0.0),
        (7, 10, 4, True, -0.25),
        (10, 10, 4, True, -1.0),
        (11, 10, 4, True, -1.0),
        (1, 10, 4, False, -1.0),
    ],
)
def test_overlong_penalty(tokens: int, limit: int, buffer: int, finished: bool, penalty: float) -> None:
    assert overlong_penalty(tokens, limit, buffer, finished=finished) == penalty


def test_settings_begin_without_a_limit() -> None:
    assert ScoreSettings() == ScoreSettings("en", 0, 0, 8)


def test_repetition_is_a_penalty(scorer: Scorer) -> None:
    text = "<think>" + "a b c d e f g h " * 2 + "</think>"
    assert _total(scorer, MATH, text, {"repetition": 1.0}) < 0.0
    assert _total(scorer, MATH, "<think>a b c</think>", {"repetition": 1.0}) == 0.0


def test_counter_counts_and_alarms(caplog: pytest.LogCaptureFixture) -> None:
    counter = VerdictCounter()
    good, bad = Verdict(Outcome.CORRECT), Verdict(Outcome.TIMEOUT, detail="no result in 5 s")
    with caplog.at_level(logging.WARNING):
        assert not counter.add([good] * 95 + [bad] * 5)
        assert counter.add([good] * 90 + [bad] * 10)
    assert counter.counts() == {"correct": 185, "wrong": 0, "unparsed": 0, "timeout": 15, "verifier_error": 0}
    assert counter.masked_share == pytest.approx(0.075)
    assert "no result in 5 s" in caplog.text


def test_time_is_removed_for_files() -> None:
    assert without_time(Verdict(Outcome.CORRECT, seconds=1.0)).seconds == 0.0
