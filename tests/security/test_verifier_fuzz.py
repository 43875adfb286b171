"""Hostile answers for the math verifier: no hang beyond the deadline, no crash, no false "correct".

`R1_FUZZ_ANSWERS` sets how many are judged (default: a small deterministic share; `make test-faults`: 100,000). The number path
takes most of them; every answer that reaches algebra is a real call of math-verify in its worker process.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from pipeline_lib.rewards.accuracy import Question, judge_quickly, verdict_of
from pipeline_lib.rewards.math_pool import MathPool
from pipeline_lib.rewards.math_worker import WALL_FACTOR
from pipeline_lib.types import Outcome, Verdict

COUNT = int(os.environ.get("R1_FUZZ_ANSWERS", "4000"))
SECONDS = 1.0
GOLDS = ("3", "-17", "\\frac{1}{2}", "1,234", "x^2+1", "\\sqrt{2}", "(1,2)", "C", "Evelyn")
_ATOMS = (
    *(
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
    ),
    *(
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
        "\\text",
        "\\pm",
        "\\infty",
    ),
    *(
        "٣",
        "３",
        "²",
        "½",
        "三",
        "\u200b",
        "\u202e",
        "\x00",
        "\ud800",
        "<answer>",
        "</think>",
        "__import__('os')",
        "lambda",
    ),
    *(
        "9^{9^{9^{9}}}",
        "\\frac{1}{0}",
        "10^{10^{10}}",
        "\\binom{999999}{499999}",
        "999999999!",
        "\\begin{pmatrix}",
        "&",
        "\\\\",
    ),
)


def hostile_answer(rng: random.Random) -> str:
    """One answer: noise, deep nesting, giant numbers, or a nearly right value in a wrong dress."""
    kind = rng.randrange(6)
    if kind == 0:
        return "".join(rng.choice(_ATOMS) for _ in range(rng.randrange(1, 12)))
    if kind == 1:
        depth = rng.choice((5, 50, 400))
        opening, closing = rng.choice(
            (("{", "}"), ("(", ")"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ("\\left(", "\\right)"))
        )
        return opening * depth + "1" + closing * rng.choice((depth, depth - 1, 0))
    if kind == 2:
        return rng.choice(
            (
                "9" * rng.randrange(1, 3000),
                "1e" + "9" * rng.randrange(1, 9),
                "0." + "0" * 500 + "1",
                "9" * 50 + "!",
            )
        )
    if kind == 3:
        return "".join(
            chr(rng.choice((0x0660, 0xFF10, 0x1D7CE, 0x0966)) + int(digit))
            for digit in str(rng.randrange(9999))
        )
    if kind == 4:
        return rng.choice(
            (
                "a" * 2000 + "!",
                "(" * 1000,
                "x^" * 200 + "2",
                "1," * 500,
                " " * 1900 + "3 4",
                "=" * 999,
                "\\text{" * 300,
            )
        )
    return rng.choice(
        ("{} or 4", "not {}", "{} {}", "<answer>{}", "{}+0", "{}*1", "{};4", "≈{}", "[{}]")
    ).replace("{}", rng.choice(GOLDS))


def never_right(gold: str, answer: str) -> bool:
    """True where the answer certainly is not the expected one: the fuzz then must not be called correct.

    Algebra may find hostile text equal by right (`3+0` in a formula), so only clear cases are claimed: numbers that are not
    the bare number, and text.
    """
    return gold in ("3", "-17", "1,234", "C", "Evelyn") and answer.strip("$. ") not in (
        gold,
        f"({gold})",
        gold.replace(",", ""),
    )


@pytest.mark.timeout(3600)
def test_hostile_answers(record_property: Callable[[str, object], None]) -> None:
    rng = random.Random(20261124)
    counts: Counter[Outcome] = Counter()
    asked = 0
    budget = max(12, COUNT // 200)
    with MathPool(workers=1, seconds=SECONDS) as pool:
        pool.compare("1", "1")
        # One whose algebra is over the budget is not judged, and does not count.
        while counts.total() < COUNT:
            gold, answer = rng.choice(GOLDS), hostile_answer(rng)
            started = time.monotonic()
            verdict = judge_quickly(gold, answer)
            assert time.monotonic() - started < 1.0 or isinstance(verdict, Question), (gold, answer)
            if isinstance(verdict, Question):
                if asked >= budget:
                    continue
                asked += 1
                question = verdict
                verdict = verdict_of(question, answer, pool.compare(question.gold, question.answer))
                assert time.monotonic() - started < WALL_FACTOR * SECONDS + 8.0, (gold, answer)
            assert isinstance(verdict, Verdict)
            counts[verdict.outcome] += 1
            if never_right(gold, answer):
                assert verdict.outcome is not Outcome.CORRECT, (gold, answer)
    assert asked >= 12
    print(f"{counts.total()} hostile answers, {asked} by algebra: {dict(counts)}")
    record_property("count: hostile answers judged", counts.total())
    record_property("count: of them by algebra", asked)
