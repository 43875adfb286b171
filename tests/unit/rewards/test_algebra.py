"""Formulas are read in two stages: the same trees and the same refusals as in one."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from antlr4.error.ErrorListener import ErrorListener
from latex2sympy2_extended import latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser

import pipeline_lib.rewards._algebra as algebra

COUNT = int(os.environ.get("R1_FUZZ_FORMULAS", "200"))
OPERANDS = (
    *("x", "y", "R", "2", "37", "0.5", "1,234", "-1", "\\pi", "\\alpha", "a_{1}", "\\infty", "i", "3x", "x!", "x^2", "x^{-1}", "2^n"),
    *("\\frac{1}{x}", "\\frac12", "\\sqrt{2}", "\\sqrt[3]{x}", "\\sin x", "\\sin(x)", "\\log_2 x", "45^\\circ", "5\\%"),
    *("\\int_0^1 x dx", "\\sum_{n=1}^{3} n", "\\lim_{x\\to 0} x", "\\binom{4}{2}", "\\lfloor x \\rfloor", "\\left(x+1\\right)"),
    "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
)  # fmt: skip
PIECES = (
    "+",
    "=",
    "\\le",
    "\\pm",
    ",",
    "|",
    "_2",
    "^",
    "\\text{ cm}",
    "\\left(",
    "\\right)",
    "(",
    "]",
    "\\{",
    "}",
    "\\",
    "&",
    "é",
    "\\mathrm{d}x",
)
SHAPES = (
    *("({})", "[{}]", "\\{{{},{}\\}}", "({},{}]", "-{}", "|{}|", "\\sqrt{{{}}}", "\\frac{{{}}}{{{}}}", "{{{}}}^{{{}}}", "{}{}"),
    *("{}+{}", "{}-{}", "{}\\cdot {}", "{}/{}", "{}={}", "{}<{}", "{}, {}", "{};{}", "{}\\cup {}", "{}\\in {}"),
)  # fmt: skip


def _formula(draw: random.Random, depth: int = 3) -> str:
    """A formula, most of the time a whole one."""
    if depth == 0 or draw.random() < 0.3:
        return draw.choice(OPERANDS) if draw.random() < 0.95 else draw.choice(PIECES)
    shape = draw.choice(SHAPES)
    return shape.format(*(_formula(draw, depth - 1) for _ in range(shape.count("{}"))))


def _tree(parser: type[PSParser], text: str, monkeypatch: pytest.MonkeyPatch) -> str | type[Exception]:
    """The whole tree, or what kind of error there was: it is all that math-verify looks at."""
    monkeypatch.setattr(latex2sympy2, "PSParser", parser)
    made = latex2sympy2._Latex2Sympy().create_parser(text)
    try:
        return str(made.math().toStringTree(recog=made))
    except Exception as error:
        return type(error)


def test_two_stages_read_what_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    kinds: Counter[str] = Counter()
    for text in (_formula(draw) for _ in range(COUNT)):
        whole = _tree(PSParser, text, monkeypatch)
        assert _tree(algebra.TwoStageParser, text, monkeypatch) == whole, text
        kinds["tree" if isinstance(whole, str) else "error"] += 1
    assert min(kinds["tree"], kinds["error"]) > COUNT / 5, kinds


class _Reports(ErrorListener):
    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def syntaxError(self, recognizer, offendingSymbol, line, column, msg, e) -> None:  # type: ignore[no-untyped-def]
        self.said.append(msg)


def test_what_a_broken_formula_is_told_is_what_one_stage_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is reported by the first stage, and the second begins at the beginning with the listeners of before."""
    said: dict[type[PSParser], list[str]] = {PSParser: [], algebra.TwoStageParser: []}
    for parser, messages in said.items():
        monkeypatch.setattr(latex2sympy2, "PSParser", parser)
        made = latex2sympy2._Latex2Sympy().create_parser("\\frac{1}{x + 2 + (3")
        made.removeErrorListeners()
        made.addErrorListener(_Reports(messages))
        made.math()
    assert said[PSParser] == said[algebra.TwoStageParser] != []


@pytest.mark.parametrize(("text", "settled"), [("5+x(3+x)", True), ("(5,3)", True), ("x^2", False)])
def test_the_first_stage_does_without_the_context_of_a_rule(
    text: str, settled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second searches with it, where the first finds nothing: after a power of a letter there may be more than it can see."""
    simulator = type(latex2sympy2._Latex2Sympy().create_parser(text)._interp)
    whole = simulator.execATNWithFullContext
    searches: list[int] = []

    def counted(self: object, *arguments: object) -> object:
        searches.append(1)
        return whole(self, *arguments)

    monkeypatch.setattr(simulator, "execATNWithFullContext", counted)
    needed = []
    for parser in (PSParser, algebra.TwoStageParser):
        searches.clear()
        assert isinstance(_tree(parser, text, monkeypatch), str)
        needed.append(len(searches))
    assert needed[0] > 0
    assert needed[1] == (0 if settled else needed[0])


def test_latex2sympy_uses_it() -> None:
    assert latex2sympy2.PSParser is algebra.TwoStageParser


def test_judging_reads_latex_and_nothing_else() -> None:
    assert algebra.judge("x", "x") == "equal"
    assert algebra.judge("x", "\\boxed{y} \\boxed{x}") == "different"
    assert algebra.judge("", "x") == "gold_unparsed"
    assert algebra.judge("x", "") == "unparsed"
