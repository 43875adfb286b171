"""Are two LaTeX expressions the same mathematical object? math-verify's answer, its formulas read in ANTLR's two stages.

Importing it costs seconds and comparing may take forever: only `math_worker` does, in a process that a deadline kills.

Four fifths of math-verify's time are ANTLR reading LaTeX, and most of that is the search that knows the whole context of a rule (LL). The
search without it (SLL) finds the same tree or none (antlr4/atn/PredictionMode.py; Parr, Harwell and Fisher, 2014, "Adaptive LL(*) Parsing"),
so each formula is read without it first, and again with it where that finds none.
"""

from __future__ import annotations

from typing import Any

from antlr4.atn.PredictionMode import PredictionMode
from antlr4.error.Errors import ParseCancellationException
from antlr4.error.ErrorStrategy import BailErrorStrategy
from latex2sympy2_extended import latex2sympy2
from latex2sympy2_extended.antlr_parser import PSParser
from math_verify import LatexExtractionConfig, parse, verify


class TwoStageParser(PSParser):
    """latex2sympy's parser; what it accepts and the trees it makes are the same."""

    _listeners: list[Any]
    _errHandler: Any

    def math(self) -> PSParser.MathContext:
        """The tree of a whole formula. Raises what the listeners raise on a formula that is none."""
        listeners, handler = self._listeners, self._errHandler
        self._listeners, self._errHandler = [], BailErrorStrategy()
        self._interp.predictionMode = PredictionMode.SLL
        try:
            return super().math()
        except ParseCancellationException:
            self._listeners, self._errHandler = listeners, handler
            self._interp.predictionMode = PredictionMode.LL
            self.reset()
            return super().math()


latex2sympy2.PSParser = TwoStageParser


def judge(gold: str, answer: str) -> str:
    """Compare two LaTeX expressions: "equal", "different", "gold_unparsed" or "unparsed". May run forever; raises what sympy raises."""
    expected = _parse(gold)
    if not expected:
        return "gold_unparsed"
    given = _parse(answer)
    if not given:
        return "unparsed"
    return "equal" if verify(expected, given, timeout_seconds=None, raise_on_error=True) else "different"


def _parse(text: str) -> list[Any]:
    """What math-verify made of it, without the raw text that it adds when it could make nothing."""
    found = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=-1)],
        parsing_timeout=None,
        raise_on_error=False,
    )
    return [item for item in found if not isinstance(item, str)]
