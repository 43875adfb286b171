"""A second opinion on "these two formulas are equal", which shares nothing with sympy or math-verify.

A small reader of LaTeX evaluates both at random points. It reads less than math-verify does: what it cannot read it does not confirm.
"""

from __future__ import annotations

import cmath
import math
import random
import re
from collections.abc import Mapping

POINTS = 8
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\d+(?:\.\d*)?|\.\d+|.", re.ASCII | re.DOTALL)
_FUNCTIONS = {
    **{f"\\{name}": getattr(cmath, name) for name in ("sin", "cos", "tan", "exp", "log")},
    "\\ln": cmath.log,
}
_NAME_BEFORE = re.compile(r"\s*[A-Za-z](?:\([a-z]\))?\s*=")
_CLOSING = {"(": ")", "{": "}", "[": "]", "|": "|", "\\{": "\\}"}

Values = list[complex]
"""The components of a tuple; one for an expression."""


class Unreadable(ValueError):
    """The text is not in this reader's small language."""


def confirms(gold: str, answer: str) -> bool:
    """True when both can be read and are equal at every random point where both have a value (at three at least).

    Points are real. A gold without variables is compared to six decimals, as math-verify rounds numbers. One value said several
    times (`3x, 3x`) is that value, and a command with two backslashes is that command.
    """
    gold, answer = _undressed(gold), _NAME_BEFORE.sub("", _undressed(answer), count=1)
    tolerance = 1e-9 if re.search(r"(?<![\\A-Za-z])[a-z](?![a-z])", gold) else 1e-6
    rng, compared = random.Random(f"{gold} {answer}"), 0
    for _ in range(POINTS):
        at = {
            letter: rng.uniform(-3.0, 3.0) for letter in "abcdfghjklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        }
        try:
            expected, given = _evaluate(gold, at), _evaluate(answer, at)
        except Unreadable:
            return False
        except (ArithmeticError, ValueError):
            continue
        compared += 1
        if len(expected) == 1:
            expected *= len(given)
        if len(expected) != len(given) or any(
            not abs(left - right) <= tolerance * max(1.0, abs(left))
            for left, right in zip(expected, given, strict=True)
        ):
            return False
    return compared >= 3


def _undressed(text: str) -> str:
    bare = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text.strip().removesuffix(".").replace("$", " "))
    for dress in ("\\left", "\\right", "\\,", "\\!", "\\;", "\\displaystyle"):
        bare = re.sub(re.escape(dress) + r"(?![A-Za-z])", " ", bare)
    return bare.strip()


def _evaluate(text: str, at: Mapping[str, float]) -> Values:
    reader = _Reader(text, at)
    values = reader.values()
    if reader.next() is not None:
        raise Unreadable(f"{reader.next()!r} in {text!r}")
    return values


class _Reader:
    """Recursive descent: values, sum, product, power, atom."""

    def __init__(self, text: str, at: Mapping[str, float]) -> None:
        self._tokens = [token for token in _TOKEN.findall(text) if not token.isspace()]
        if len(self._tokens) > 300:
            raise Unreadable("too long")
        self._at, self._position = at, 0

    def next(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _take(self, expected: str | None = None) -> str:
        token = self.next()
        if token is None or (expected is not None and token != expected):
            raise Unreadable(f"{token!r} where {expected!r} was expected")
        self._position += 1
        return token

    def values(self) -> Values:
        found = self._sum()
        while self.next() == ",":
            self._take()
            found += self._sum()
        return found

    def _sum(self) -> Values:
        total = self._product()
        while self.next() in ("+", "-"):
            sign = self._take()
            other = _one(self._product())
            total = [_one(total) + (other if sign == "+" else -other)]
        return total

    def _product(self) -> Values:
        if self.next() in ("+", "-"):
            return [-_one(self._product())] if self._take() == "-" else self._product()
        result = self._power()
        while (token := self.next()) is not None:
            if token in ("*", "\\cdot", "\\times", "/", "\\div"):
                self._take()
                other = _one(self._power())
                result = [_one(result) / other if token in ("/", "\\div") else _one(result) * other]
            elif token.isalpha() or token in ("(", "{", "\\frac", "\\sqrt", "\\pi", *_FUNCTIONS):
                result = [_one(result) * _one(self._power())]
            else:
                break
        return result

    def _power(self) -> Values:
        base = self._atom()
        if self.next() == "^":
            self._take()
            sign = -1 if self.next() == "-" and self._take() else 1
            exponent = sign * _one(self._power())
            if abs(exponent) > 1e6:
                raise Unreadable("an enormous power")
            base = [_one(base) ** exponent]
        if self.next() == "!":
            self._take()
            value = _one(base)
            if value.imag or value.real < 0 or value.real != int(value.real) or value.real > 100:
                raise Unreadable("a factorial of no small number")
            base = [complex(math.factorial(int(value.real)))]
        return base

    def _atom(self) -> Values:
        token = self._take()
        if token[0] in ".0123456789":
            return [complex(float(token))]
        if token in _CLOSING:
            inside = self.values()
            self._take(_CLOSING[token])
            return [complex(abs(_one(inside)))] if token == "|" else inside
        if token == "\\pi":
            return [complex(math.pi)]
        if token == "e":
            return [complex(math.e)]
        if token in self._at:
            return [complex(self._at[token])]
        if token == "\\frac":
            above = _one(self._argument())
            return [above / _one(self._argument())]
        if token == "\\sqrt":
            root = 2.0 + 0j
            if self.next() == "[":
                self._take()
                root = _one(self._sum())
                self._take("]")
            return [_one(self._argument()) ** (1 / root)]
        if token in _FUNCTIONS:
            return [_FUNCTIONS[token](_one(self._argument()))]
        raise Unreadable(token)

    def _argument(self) -> Values:
        """Braces or parentheses, or the one digit or letter that TeX takes."""
        token = self.next() or ""
        if token[:1].isdigit() and len(token) > 1:
            self._tokens[self._position : self._position + 1] = [token[0], token[1:]]
        return self._atom()


def _one(values: Values) -> complex:
    if len(values) != 1:
        raise Unreadable("a tuple where a number is expected")
    return values[0]
