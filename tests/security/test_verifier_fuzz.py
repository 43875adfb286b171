"""Hostile responses for the math verifier: no hang beyond the deadline, no crash, no false "correct".

Each is a whole response, read by `AnswerExtractor` and judged as `Scorer` does. `R1_FUZZ_ANSWERS` sets how many (default: a small
deterministic share; `make test-faults`: 100,000). All are judged to the end: what the number path does not settle is a real call of
math-verify in its worker process, for one in twenty or more. A "correct" must be confirmed by `_may_be_right`, which shares no code
with the verifier.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest

from pipeline_lib.rewards.accuracy import Question, judge_quickly, verdict_of
from pipeline_lib.rewards.math_pool import MathPool
from pipeline_lib.rewards.math_worker import WALL_FACTOR
from pipeline_lib.rewards.response import AnswerExtractor, AnswerStyle
from pipeline_lib.types import Outcome, Verdict
from tests.security.formula_oracle import confirms

COUNT = int(os.environ.get("R1_FUZZ_ANSWERS", "4000"))
SECONDS = 1.0
QUICK_SECONDS = 1.0
FORMULA_SHARE = 0.1
NUMBERS = {"3": Fraction(3), "-17": Fraction(-17), "\\frac{1}{2}": Fraction(1, 2), "1,234": Fraction(1234)}
WORDS = {"C": {"c", "(c)"}, "Evelyn": {"evelyn"}}
FORMULAS = (
    "x^2+1",
    "\\sqrt{2}",
    "(1,2)",
    "\\frac{x}{x+1}",
    "2\\pi",
    "3\\sqrt{5}-1",
    "x^3-3x+2",
    "\\sin(x)",
    "a+b",
)
PLAIN = (*NUMBERS, *WORDS)
GOLDS = (*PLAIN, *FORMULAS)
_ATOMS = (
    *[
        "9",
        "0",
        "x",
        "y",
        "^",
        "_",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "\\frac",
        "\\sqrt",
        "\\left",
        "\\right",
        "\\boxed",
        "$",
        "+",
        "-",
        "*",
        "/",
        "=",
        "<",
        ">",
        ",",
        ".",
        "e",
        "!",
        "%",
        "\\",
        "\\int",
        "\\sum",
        "\\lim",
    ],
    *[
        "\\text",
        "\\pm",
        "\\infty",
        "\\begin{pmatrix}",
        "&",
        "\\\\",
        "9^{9^{9^{9}}}",
        "\\frac{1}{0}",
        "10^{10^{10}}",
        "999999999!",
    ],
    *[
        "\\binom{999999}{499999}",
        "٣",
        "３",
        "²",
        "½",
        "三",
        "<answer>",
        "</answer>",
        "<think>",
        "</think>",
        "__import__('os')",
        "lambda",
    ],
    *("\u200b", "\u202e", "\x00", "\ud800", "\n", "\n#### "),
)
_FORMULA_ATOMS = [
    "x",
    "y",
    "2",
    "3",
    "-1",
    "0",
    "+",
    "-",
    "*",
    "/",
    "^2",
    "^{-1}",
    "^{x}",
    "\\frac{1}{x}",
    "\\sqrt{x}",
    "\\sqrt2",
    "(x+1)",
    "(1,2)",
    "\\pi",
    ",",
    "!",
    "|",
    "x^2+1",
    "\\sqrt{2}",
    "=",
    "\\sin",
]
_EQUAL = ("{}", "({})", "{}+0", "{}*1", "1\\cdot {}", "y={}", "\\left({}\\right)", "{}+x-x", "\\frac{{}}{1}")
_NEARLY = (
    *("{}+1", "-({})", "2({})", "({})^2", "{}+10^{-5}", "{}+y", "{}\\cdot x", "\\frac{{}}{2}", "\\sqrt{{}}"),
    *("{}!", "{},{}", "{},3", "3,{}", "{}=3", "3={}", "\\{{}\\}", "\\{{},3\\}", "[{}]", "{}<4", "\\pm {}"),
    *("{} or 4", "not {}", "{} {}", "<answer>{}", "{};4", "≈{}", "{}\\text{ or }4", "{}\\cup 4", "|{}|"),
    *("{}$ or $4", "\\boxed{{}}\\boxed{4}", "\\boxed{4} {}", "{}\\\\4", "{}</answer><answer>4", "{} \\in 4"),
)


def _noise(rng: random.Random, atoms: tuple[str, ...] | list[str]) -> str:
    return "".join(rng.choice(atoms) for _ in range(rng.randrange(1, 12)))


def _nested(rng: random.Random) -> str:
    depth = rng.choice((5, 50, 400))
    opening, closing = rng.choice(
        (("{", "}"), ("(", ")"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ("\\left(", "\\right)"))
    )
    return opening * depth + "1" + closing * rng.choice((depth, depth - 1, 0))


def _giant(rng: random.Random) -> str:
    return rng.choice(
        (
            "9" * rng.randrange(1, 3000),
            "1e" + "9" * rng.randrange(1, 9),
            "0." + "0" * 500 + "1",
            "9" * 50 + "!",
        )
    )


def _foreign_digits(rng: random.Random) -> str:
    zeros = [chr(zero) for zero in (0x0660, 0xFF10, 0x1D7CE, 0x0966)]
    return "".join(chr(ord(rng.choice(zeros)) + int(digit)) for digit in str(rng.randrange(9999)))


def _monotonous(rng: random.Random) -> str:
    return rng.choice(
        (
            *("a" * 2000 + "!", "(" * 1000, "x^" * 200 + "2", "1," * 500, " " * 1900 + "3 4", "=" * 999),
            *("\\text{" * 300, "<answer>" * 100, "</think>" * 100, "\\boxed{" * 300),
        )
    )


def _edited(rng: random.Random, gold: str) -> str:
    """The expected answer with one character replaced, removed or doubled, or with its letters in the other case."""
    at = rng.randrange(len(gold))
    if rng.random() < 0.1:
        return gold.swapcase()
    return gold[:at] + rng.choice(("", gold[at] * 2, *"0139x-+")) + gold[at + 1 :]


def hostile_answer(rng: random.Random, gold: str) -> str:
    """One answer: noise, deep nesting, giant numbers, or a nearly right value in a wrong dress."""
    kinds: dict[Callable[[], str], int] = {
        lambda: _nested(rng): 1,
        lambda: _giant(rng): 1,
        lambda: _foreign_digits(rng): 1,
        lambda: _monotonous(rng): 1,
        lambda: _noise(rng, _ATOMS): 3,
        lambda: _noise(rng, _FORMULA_ATOMS): 3,
        lambda: _edited(rng, gold): 3,
        lambda: rng.choice(_EQUAL).replace("{}", rng.choice((gold, gold, *GOLDS))): 2,
        lambda: rng.choice(_NEARLY).replace("{}", gold): 5,
    }
    (make,) = rng.choices(list(kinds), list(kinds.values()))
    return make()


_HONEST = (
    "<think>so</think><answer>{}</answer>",
    "<think>so</think>\n<answer> {} </answer>\n",
    "so</think><answer>{}</answer>",
    "<think>or <answer>GOLD</answer></think><answer>{}</answer>",
    "<think>so</think>It is <answer>{}</answer>, not GOLD.",
)
_HEDGED = (
    "<think>so</think><answer>GOLD</answer><answer>{}</answer>",
    "<think>so</think><answer>{}</answer><answer>GOLD</answer>",
    "<think>so</think><answer><answer>GOLD</answer>{}</answer>",
    "<think>so</think><answer>{}<answer>GOLD</answer></answer>",
    "<think>so<answer>GOLD</answer>{}",
    "<think>so</think><answer>GOLD {}",
    "<think>so <answer>GOLD</answer>{}</think>",
    "<think>so</think></answer>GOLD<answer>{}",
    "<think>so</think>\\boxed{GOLD} {}",
    "<think>so</think>GOLD</answer>{}",
)
"""Responses with the right answer in a place that must not count, whatever stands at {} (unless that brings tags of its own)."""


def _tagged_answer(response: str) -> str | None:
    """The answer that a reader with regular expressions sees: the only pair of tags outside the thought, with no tag inside."""
    before, closed, rest = response.partition("</think>")
    if closed and "<think>" not in before:
        response = rest
    outside = re.sub(r"<think>.*?</think>", "\n", response, flags=re.DOTALL)
    if "<think>" in outside:
        return None
    found = re.fullmatch(
        r"(?:(?!</?answer>).)*?<answer>((?:(?!</?answer>).)*)</answer>(?:(?!</?answer>).)*",
        outside,
        re.DOTALL,
    )
    if found is None or "</think>" in found[1]:
        return None
    return found[1].strip() or None


def _may_be_right(gold: str, answer: str | None) -> bool:
    if answer is None:
        return False
    if gold in FORMULAS:
        return confirms(gold, answer)
    if gold in WORDS:
        return answer.strip("$. ").lower() in WORDS[gold]
    bare = re.sub(r"^[A-Za-z]\s*=\s*|\s", "", answer.replace("\\%", "").strip("$.% ").rstrip("\\ "))
    parts = re.fullmatch(r"([+-]?)\\frac\{([^{}]*)\}\{([^{}]*)\}|([^/]*)(?:/([^/]*))?", bare)
    if parts is None:
        return False
    sign, above, below, left, right = parts.groups()
    value, divisor = (
        _number(left if above is None else above),
        _number((right if above is None else below) or "1"),
    )
    if value is None or not divisor:
        return False
    return (-1 if sign == "-" else 1) * value / divisor == NUMBERS[gold]


def _number(text: str) -> Fraction | None:
    written = re.fullmatch(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d*)?(?:[eE][+-]?\d{1,3})?", text, re.ASCII)
    return Fraction(text.replace(",", "").replace(".e", "e").removesuffix(".")) if written else None


def _judged(pool: MathPool, gold: str, response: str) -> tuple[Verdict, bool]:
    """The verdict, and whether math-verify was asked; each part within its deadline."""
    started = time.monotonic()
    found = AnswerExtractor(AnswerStyle.TAG).extract(response)
    if found.answer is None:
        quick: Verdict | Question = Verdict(Outcome.WRONG, detail=found.reason)
    else:
        quick = judge_quickly(gold, found.answer)
    asked = time.monotonic()
    assert asked - started < QUICK_SECONDS, (gold, response)
    if isinstance(quick, Verdict):
        return quick, False
    assert found.answer is not None
    verdict = verdict_of(quick, found.answer, pool.compare(quick.gold, quick.answer))
    assert time.monotonic() - asked < WALL_FACTOR * SECONDS + 8.0, (gold, response)
    assert "process died" not in verdict.detail, (gold, response)
    return verdict, True


@pytest.mark.timeout(3600)
def test_hostile_answers(record_property: Callable[[str, object], None]) -> None:
    rng = random.Random(20261124)
    quick: Counter[Outcome] = Counter()
    algebra: Counter[Outcome] = Counter()
    false_correct = []
    with MathPool(workers=1, seconds=SECONDS) as pool:
        pool.compare("1", "1")
        for _ in range(COUNT):
            gold = rng.choice(FORMULAS if rng.random() < FORMULA_SHARE else PLAIN)
            answer = hostile_answer(rng, gold)
            hedged = rng.random() < 0.25
            response = rng.choice(_HEDGED if hedged else _HONEST).replace("GOLD", gold).replace("{}", answer)
            verdict, by_algebra = _judged(pool, gold, response)
            (algebra if by_algebra else quick)[verdict.outcome] += 1
            never = hedged and not re.search("</?(answer|think)>", answer)
            if verdict.outcome is Outcome.CORRECT and (
                never or not _may_be_right(gold, _tagged_answer(response))
            ):
                false_correct.append((gold, response))
    print(f"hostile answers: {dict(quick)} and by algebra: {dict(algebra)}")
    assert false_correct == []
    # The checks have something to check: right answers in both paths, and a real share of algebra.
    assert algebra.total() >= COUNT // 20
    assert quick[Outcome.CORRECT] >= COUNT // 200
    assert algebra[Outcome.CORRECT] >= COUNT // 1000
    record_property("count: hostile answers judged", quick.total() + algebra.total())
    record_property("count: of them by algebra", algebra.total())
