r"""Is a math answer right? (L ch.1: +1 if the final answer is correct, 0 otherwise.)

What is expected decides how the answer is read:
- a number (GSM8K, AIME, the micro world): exact rational comparison in this process, no algebra. Anything that is not a number
  is WRONG, an unevaluated expression too.
- text (`Evelyn`, `C`, `even`): equal after case, whitespace and `\text{}` are set aside.
- any other mathematics: math-verify, in `math_pool`. A capital is another letter than the small one. An answer that reads as
  mathematics but cannot be parsed is UNPARSED: our reader's failure, masked and counted. An answer in plain words is WRONG.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate

from pipeline_lib.rewards.math_pool import Comparison, MathPool
from pipeline_lib.rewards.numbers import parse_number
from pipeline_lib.rewards.registry import RewardPart, Sample
from pipeline_lib.types import Outcome, Verdict

MAX_ANSWER_CHARS = 2_000
MAX_NESTING = 10
"""Brackets within brackets, or exponents upon exponents, of an answer to an expected formula that has no more itself: more than one needs. A
parser's time grows exponentially with them (12, 14, 15 pairs of braces: 2, 6, 11 s), and a time-out would be masked."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "ln",
        "exp",
        "sqrt",
        "max",
        "min",
        "gcd",
        "lcm",
        "deg",
        "pi",
        "or",
        "and",
        "in",
        "frac",
        "begin",
        "end",
        "pmatrix",
        "bmatrix",
        "vmatrix",
        "matrix",
        "array",
        "cases",
        "text",
        "mathrm",
        "left",
        "right",
        "cup",
        "cap",
        "infty",
    ]
)
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mbox|operatorname)\{([^{}]*)\}")
_MATH_MARK = re.compile(r"[\\^_=+*/<>|()\[\]{}0-9-]")


_NAME_BEFORE = re.compile(r"\s*[A-Za-z](?:\([a-z]\))?\s*=")


_BRACKETS = {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}
_TOWER = re.compile(r"(?:[\^_]\s*(?:\\[A-Za-z]+|[^\s{}()\[\]^_\\])\s*)+")
"""`^a^b`, `_a^b`: one upon another without a bracket."""


_LETTER = re.compile(r"(?<![\\A-Za-z])(?<!\\mathbb\{)[A-Za-z](?![A-Za-z])|\\[A-Za-z]+")
_LETTERS = "kmnpqrstuvwxyzabcfghjl"


class Kind(StrEnum):
    """What an expected answer is, and so how a given one is read."""

    NUMBER = "number"
    TEXT = "text"
    MATH = "math"


@dataclass(frozen=True, slots=True)
class Question:
    """An answer that only the math verifier can settle."""

    gold: str
    answer: str


@lru_cache(maxsize=4096)
def kind_of(expected: str) -> Kind:
    """How `expected` will be compared."""
    if parse_number(expected) is not None:
        return Kind.NUMBER
    return Kind.MATH if _reads_as_math(expected) else Kind.TEXT


def judge_quickly(expected: str, answer: str) -> Verdict | Question:
    """The verdict where no algebra is needed, otherwise the question for the verifier."""
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict(Outcome.WRONG, answer[:200], detail=f"longer than {MAX_ANSWER_CHARS} characters")
    kind = kind_of(expected)
    if kind is Kind.NUMBER:
        value = parse_number(answer)
        right = value is not None and value == parse_number(expected)
        return Verdict(_signal(right), answer, detail="" if value is not None else "not a number")
    same = _fold(expected) == _fold(answer) if kind is Kind.TEXT else _bare(expected) == _bare(answer)
    if same or (_choice(expected) is not None and _choice(expected) == _choice(answer)):
        return Verdict(Outcome.CORRECT, answer)
    if kind is Kind.TEXT:
        return Verdict(Outcome.WRONG, answer)
    if not _reads_as_math(answer):
        return Verdict(Outcome.WRONG, answer, detail="words where mathematics is expected")
    gold, given = _unwrap(expected), _unwrap(answer)
    if "=" not in gold:
        given = _NAME_BEFORE.sub("", given, count=1)
        if "=" in given:
            # math-verify would take either side of `3 = 4`: an answer may not hedge.
            return Verdict(Outcome.WRONG, answer, detail="an equation where one expression is expected")
    if (deep := _nesting(given)) > max(MAX_NESTING, _nesting(gold)):
        return Verdict(Outcome.WRONG, answer, detail=f"nested {deep} deep")
    question = _cases_apart(gold, given)
    return question or Verdict(Outcome.WRONG, answer, detail="too many letters")


def verdict_of(question: Question, answer: str, comparison: Comparison) -> Verdict:
    """Turn what the verifier said into a verdict."""
    outcome = {
        "equal": Outcome.CORRECT,
        "different": Outcome.WRONG,
        "unparsed": Outcome.UNPARSED,
        "timeout": Outcome.TIMEOUT,
    }.get(comparison.result, Outcome.VERIFIER_ERROR)
    detail = comparison.detail
    if comparison.result == "gold_unparsed":
        detail = f"the expected answer {question.gold!r} cannot be parsed"
    return Verdict(outcome, answer, detail=detail)


def verify_math(expected: str, answer: str, pool: MathPool) -> Verdict:
    """Judge one extracted answer. Never raises for any `answer`."""
    quick = judge_quickly(expected, answer)
    if isinstance(quick, Verdict):
        return quick
    return verdict_of(quick, answer, pool.compare(quick.gold, quick.answer))


def _signal(right: bool) -> Outcome:
    return Outcome.CORRECT if right else Outcome.WRONG


def _reads_as_math(text: str) -> bool:
    """Marks or a lone letter, and no word that is not a function's name."""
    bare = _TEXT_COMMAND.sub(" ", _unwrap(text)).strip()
    if any(ord(char) > 0x2FF and char.isalpha() for char in bare):
        return False
    if any(word.lower() not in _FUNCTIONS for word in _WORD.findall(bare)):
        return False
    return _MATH_MARK.search(bare) is not None or (len(bare) == 1 and bare.islower())


def _unwrap(text: str) -> str:
    bare = text.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if bare.startswith(opening) and bare.endswith(closing):
            bare = bare[len(opening) : -len(closing)].strip()
    return bare.replace("$", "")


def _cases_apart(gold: str, given: str) -> Question | None:
    r"""The question, a capital whose small letter is there too under a letter of its own; None when none is left.

    math-verify takes `R` for `r`: `\pi(R^2-r^2)` would be 0.
    """
    names = {match[0] for text in (gold, given) for match in _LETTER.finditer(text)}
    doubled = sorted(name for name in names if name != name.lower() and name.lower() in names)
    free = [letter for letter in _LETTERS if not names & {letter, letter.upper()}]
    if len(doubled) > len(free):
        return None
    letters = {
        name: f" {letter}" if name[0] == "\\" else letter for name, letter in zip(doubled, free, strict=False)
    }
    return Question(*(_LETTER.sub(lambda m: letters.get(m[0], m[0]), text) for text in (gold, given)))


def _nesting(text: str) -> int:
    """How deep brackets stand in brackets, closed or not, or the height of the highest tower of exponents and indices."""
    steps = (_BRACKETS.get(char, 0) for char in text)
    depths = accumulate(steps, lambda depth, step: max(0, depth + step), initial=0)
    return max((*depths, *(match[0].count("^") + match[0].count("_") for match in _TOWER.finditer(text))))


def _bare(text: str) -> str:
    """A formula without what surrounds it; its letters keep their case: `A` is not `a`."""
    return " ".join(_TEXT_COMMAND.sub(lambda words: words[1].casefold(), _unwrap(text)).split())


def _fold(text: str) -> str:
    return " ".join(_TEXT_COMMAND.sub(r"\1", _unwrap(text)).split()).casefold()


def _choice(text: str) -> str | None:
    """The letter of a multiple-choice answer: `C`, `(C)`, `C.`; None for anything else."""
    match = re.fullmatch(r"\(?([A-Za-z])\)?\.?", _fold(text))
    return match[1] if match else None


def _score(sample: Sample) -> float:
    return 1.0 if sample.verdict.outcome is Outcome.CORRECT and sample.has_key else 0.0


REWARD = RewardPart("accuracy", _score)
