r"""Read a number exactly, from text that is a number and nothing else.

Full match only. Integers, decimals, thousands separated by commas in threes, `a/b`, `\frac{a}{b}`, scientific notation,
each with an optional sign. Around it may stand what people put around numbers: `$`, `\( \)`, `%`, `\%`, a unit in
`\text{...}`, `^\circ`, a final full stop, or `x =`. Digits are ASCII; the value is a Fraction, so 0.1 is one tenth.

An unevaluated expression (`3+4`) is not a number: a response may not be paid for repeating the question.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_MAX_CHARS = 400
_MAX_EXPONENT = 400
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_PLAIN = re.compile(rf"([+-]?)({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,4}}))?")
_TIMES_TEN = re.compile(rf"([+-]?)({_DECIMAL})\\(?:times|cdot)10\^\{{?([+-]?[0-9]{{1,4}})\}}?")
_RATIO = re.compile(rf"([+-]?)({_DECIMAL})/({_DECIMAL})")
_FRAC = re.compile(rf"([+-]?)\\[dt]?frac\{{([+-]?)({_DECIMAL})\}}\{{({_DECIMAL})\}}")
_SHORT_FRAC = re.compile(r"([+-]?)\\[dt]?frac([0-9])([0-9])")
_LABEL = re.compile(r"^[A-Za-z]=")
_UNIT = re.compile(r"\\(?:text|mathrm|mbox)\{[A-Za-z .^0-9]{0,40}\}(?:\^\{?[0-9]\}?)?$")


@lru_cache(maxsize=16_384)
def parse_number(text: str) -> Fraction | None:
    """The exact value, or None when `text` is not a number by the rules above. Never raises, never slow."""
    if len(text) > _MAX_CHARS:
        return None
    if text.isascii() and text.isdigit():  # most are, and need none of what follows
        return Fraction(int(text))
    bare = _undress(text)
    if match := _PLAIN.fullmatch(bare) or _TIMES_TEN.fullmatch(bare):
        sign, digits, exponent = match.groups()
        power = int(exponent or 0)
        if abs(power) > _MAX_EXPONENT:
            return None
        return _signed(sign, _decimal(digits) * Fraction(10) ** power)
    if match := _RATIO.fullmatch(bare) or _SHORT_FRAC.fullmatch(bare):
        return _ratio(match[1], match[2], match[3])
    if match := _FRAC.fullmatch(bare):
        inner = _ratio(match[2], match[3], match[4])
        return None if inner is None else _signed(match[1], inner)
    return None


def _undress(text: str) -> str:
    bare = text.strip().removesuffix(".").rstrip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]"), ("$", "$")):
        if bare.startswith(opening) and bare.endswith(closing):
            bare = bare[len(opening) : -len(closing)].strip()
    bare = bare.replace("\u2212", "-").replace("{,}", ",").replace("\\!", "").replace("\\,", "")
    bare = bare.removesuffix(".").rstrip()
    bare = _UNIT.sub("", bare).rstrip("\\ ")
    for suffix in ("\\%", "%", "^\\circ", "^{\\circ}"):
        bare = bare.removesuffix(suffix).rstrip()
    bare = re.sub(r" *(=|/|\\times|\\cdot) *", r"\1", bare)
    bare = _LABEL.sub("", bare)
    sign = bare[:1] if bare[:1] in ("+", "-") else ""
    rest = bare[len(sign) :].lstrip()
    rest = rest.removeprefix("\\$").removeprefix("$").lstrip()
    return sign + rest


def _decimal(digits: str) -> Fraction:
    whole, _, after = digits.replace(",", "").partition(".")
    return Fraction(int((whole or "0") + after), 10 ** len(after))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _ratio(sign: str, above: str, below: str) -> Fraction | None:
    divisor = _decimal(below)
    return _signed(sign, _decimal(above) / divisor) if divisor else None
