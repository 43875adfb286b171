"""The fuzz's second opinion is one, and a capital letter is no small one: math-verify alone would take `R` for `r`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline_lib.rewards.accuracy import Question, judge_quickly, verify_math
from pipeline_lib.rewards.math_pool import MathPool
from pipeline_lib.types import Outcome, Verdict
from tests.security.formula_oracle import confirms


@pytest.fixture(scope="module")
def pool() -> Iterator[MathPool]:
    with MathPool(workers=1, seconds=5.0) as running:
        yield running


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("x^2+1", "1+x^2", True),
        ("x^2+1", "(x+1)^2-2x", True),
        ("x^2+1", "y = x^2+1.", True),
        ("x^2+1", "x^2+1+10^{-5}", False),
        ("x^2+1", "y^2+1", False),
        ("x^2+1", "X^2+1", False),
        ("x^2+1", "x^2+1}", False),
        ("\\sqrt{x^2}", "x", False),
        ("\\frac{x}{x+1}", "1-\\frac{1}{x+1}", True),
        ("\\sqrt{2}", "\\frac2{\\sqrt2}", True),
        ("\\sqrt{2}", "1.41421", False),
        ("\\sqrt{2}", "\\pm\\sqrt{2}", False),
        ("\\sqrt{2}", "\\sqrt{2}, 3", False),
        ("\\sqrt{2}", "\\int", False),
        ("(1,2)", "(2,1)", False),
        ("\\sin(x)", "\\cos(\\frac{\\pi}{2}-x)", True),
    ],
)
def test_second_opinion(gold: str, answer: str, equal: bool) -> None:
    assert confirms(gold, answer) is equal


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("\\pi(R^2-r^2)", "0", False),
        ("\\pi(R^2-r^2)", "\\pi R^2-\\pi r^2", True),
        ("A+a", "2a", False),
        ("a+b", "A+B", False),
        ("A+B", "B+A", True),
        ("x^2+1", "1+x^2+X-x", False),
        ("2\\pi", "2\\Pi", False),
        ("\\Phi-\\phi", "0", False),
        ("\\sin\\Phi-\\phi", "-\\phi+\\sin\\Phi", True),
        ("x \\in \\mathbb{R}", "x\\in \\mathbb{R}", True),
        ("c", "C", True),
        ("\\text{The} x", "\\text{the} x", True),
    ],
)
def test_a_capital_is_another_letter(gold: str, answer: str, right: bool, pool: MathPool) -> None:
    verdict = verify_math(gold, answer, pool)
    assert verdict.outcome is (Outcome.CORRECT if right else Outcome.WRONG)


def test_an_answer_cannot_use_up_the_letters() -> None:
    """Where no letter is left for a capital, nothing is asked of math-verify."""
    noise = "+".join("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    verdict = judge_quickly("x^2+1", f"1+X^2+0({noise})")
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.WRONG
    assert isinstance(judge_quickly("x^2+1", "1+X^2"), Question)
