"""Numbers are read exactly, in full, or not at all."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.rewards.numbers import parse_number


@settings(max_examples=100, deadline=None)
@given(st.integers(min_value=-(10**30), max_value=10**30))
def test_integers_with_and_without_commas(value: int) -> None:
    assert parse_number(str(value)) == value
    assert parse_number(f"{value:,}") == value
    assert parse_number(f" ${value:,}$. ") == value


@settings(max_examples=100, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_are_exact(value: object) -> None:
    assert parse_number(f"{value:f}") == Fraction(str(value))


@settings(max_examples=100, deadline=None)
@given(st.integers(-999, 999), st.integers(1, 999))
def test_fractions(above: int, below: int) -> None:
    for text in (f"{above}/{below}", f"\\frac{{{above}}}{{{below}}}", f"\\dfrac{{{above}}}{{{below}}}"):
        assert parse_number(text) == Fraction(above, below)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.from_regex(r"[-+0-9.,eE/\\${}% frac^circ]{0,40}", fullmatch=True))
def test_never_raises(text: str) -> None:
    parse_number(text)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=6), st.integers(0, 6))
def test_letters_around_a_digit_are_not_a_number(noise: str, digit: int) -> None:
    if any(char.isalpha() for char in noise) and "\\" not in noise and "e" not in noise.lower():
        assert parse_number(f"{digit}{noise}") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6", 6),
        ("-3", -3),
        ("−3", -3),
        ("+3", 3),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("1,234,567.8", Fraction(12345678, 10)),
        ("$18", 18),
        ("-$18", -18),
        ("\\$18", 18),
        ("18%", 18),
        ("18\\%", 18),
        ("90^\\circ", 90),
        ("x = 5", 5),
        ("5 \\text{ cm}^2", 5),
        ("\\(7\\)", 7),
        ("1e3", 1000),
        ("1.5 \\times 10^{3}", 1500),
        ("\\frac12", Fraction(1, 2)),
        ("-\\frac{1}{2}", Fraction(-1, 2)),
        ("10{,}000", 10000),
        ("9" * 400, int("9" * 400)),
        ("1e400", 10**400),
        ("1e-400", Fraction(1, 10**400)),
        ("\\[ 7 \\].", 7),
        ("$ 7. $", 7),
        ("7 .", 7),
        ("$7$ .", 7),
        ("\\( $7$ \\)", 7),
        ("$5\\text{ cm} .$", 5),
        ("$5\\text{ cm}.$", 5),
        ("5\\ \\text{cm}", 5),
        ("7\\!\\,", 7),
        ("90 ^{\\circ}", 90),
        ("18 %", 18),
        ("18 \\%", 18),
        ("- $ 18", -18),
        ("+ \\$ 18", 18),
        ("x = 1 / 2", Fraction(1, 2)),
        ("1 \\cdot 10^2", 100),
        ("-\\tfrac{-1}{2}", Fraction(1, 2)),
        ("-\\frac12", Fraction(-1, 2)),
        ("-1/2", Fraction(-1, 2)),
        ("1.5/2.5", Fraction(3, 5)),
        ("-2 \\times 10^{-1}", Fraction(-1, 5)),
        ("7\\text{ m}^{2}", 7),
    ],
)
def test_numbers(text: str, value: Fraction | int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "-",
            "$",
            ".",
            ",",
            "1,23",
            "1,2345",
            "12,34,567",
            "1.2.3",
            "3 4",
            "3\n4",
            "3, 4",
            "3 or 4",
        ),
        *(
            "3+4",
            "2*3",
            "2^3",
            "sqrt(16)",
            "\\sqrt{16}",
            "1/0",
            "\\frac{1}{0}",
            "x=",
            "x=y",
            "xy=5",
            "==5",
            "five",
        ),
        *(
            "٣",
            "３",
            "²",
            "④",
            "Ⅳ",
            "三",
            "1e99999",
            "1e500",
            "1e401",
            "1e-401",
            "x=y=5",
            "7%%",
            "18$",
            "1x=5",
            "5\\)",
            "\\(7$",
            "$",
            "9" * 401,
            "0x10",
            "1_000",
            "nan",
            "inf",
            "--3",
            "+-3",
        ),
        *("18 dollars", "3<answer>", "\\text{3}", "3!", "(3)", "[3]", "{3}", "1 / 2 / 3", "5 apples"),
    ],
)
def test_not_numbers(text: str) -> None:
    assert parse_number(text) is None
