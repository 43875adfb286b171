"""Cutting tests: the expected value never reaches the jail, and what cannot be cut is judged whole."""

from __future__ import annotations

import pytest

from pipeline_lib.sandbox import codec
from pipeline_lib.sandbox.split import Expect, SplitTest, plan_tests


def _cut(source: str) -> SplitTest:
    plan = plan_tests((source,), "f")
    assert not plan.judged
    (test,) = plan.split
    return test


@pytest.mark.parametrize(
    ("source", "expression", "expected"),
    [
        ("assert f(1, [2]) == 3", "f(1, [2])", 3),
        ("assert 3 == f(1)", "f(1)", 3),
        ("assert candidate('a') == ['b', ('c',)], 'why'", "candidate('a')", ["b", ("c",)]),
        ("assert sorted(f(1)) == [1, 2]", "sorted(f(1))", [1, 2]),
        ("assert f(1) is None", "f(1)", None),
        ("assert f(1) is True", "f(1)", True),
        ("assert f(-1) == -1.5e3", "f(-1)", -1500.0),
        ("assert [g for g in f(2)] == [1]", "[g for g in f(2)]", [1]),
    ],
)
def test_equalities_are_cut(source: str, expression: str, expected: object) -> None:
    test = _cut(source)
    assert (test.expression, test.expect, test.expected) == (expression, Expect.EQUAL, expected)


def test_bare_and_negated_calls_are_cut() -> None:
    assert _cut("assert f(1)").expect is Expect.TRUTHY
    assert _cut("assert not f(1)").expect is Expect.FALSY


@pytest.mark.parametrize(
    "source",
    [
        "assert f(1) == g(2)",
        "assert abs(f(1) - 2.5) < 1e-6",
        "assert (f(1) == 3) == True",
        "assert f(1) == 3 and f(2) == 4",
        "import math\nassert math.isclose(f(1), 2)",
        "x = f(1)\nassert x == 2",
        "for i in range(3):\n    assert f(i) == i",
        "def check(candidate):\n    for i in range(3):\n        assert candidate(i) == i",
        "def check(c):\n    assert c(1) == 1",
        "assert f(1) != 3",
        "assert 3 == 3",
        "assert (lambda: f(1))() == 3",
    ],
)
def test_the_rest_is_judged_whole(source: str) -> None:
    plan = plan_tests((source,), "f")
    assert not plan.split
    assert plan.judged == (source,)


def test_a_plain_check_function_is_cut() -> None:
    source = (
        "METADATA = {'author': 'x'}\n\n\ndef check(candidate):\n    'doc'\n    assert candidate(1) == 2\n"
        "    assert True, 'easy'\n    assert candidate(3) == 4, 'm'\n\ncheck(f)\n"
    )
    plan = plan_tests((source,), "f")
    assert [(t.expression, t.expected) for t in plan.split] == [("candidate(1)", 2), ("candidate(3)", 4)]


def test_no_expected_value_is_in_an_expression() -> None:
    plan = plan_tests(
        ("assert f('in') == 'SECRET'", "assert sorted(f(2)) == ['SECRET']", "assert 'SECRET' == f()"), "f"
    )
    assert len(plan.split) == 3
    assert all("SECRET" not in test.expression for test in plan.split)


def test_a_test_that_is_not_python_is_the_problems_fault() -> None:
    assert "not Python" in plan_tests(("assert f(",), "f").problem


def test_holds_compares_content_not_objects() -> None:
    test = _cut("assert f() == [1, (2,), {3}]")
    assert test.holds(codec.encode([1, (2,), {3}]))
    assert not test.holds(codec.encode([1, [2], {3}]))
    assert not test.holds(codec.encode([object(), (2,), {3}]))
    with pytest.raises(codec.CodecError):
        test.holds(codec.encode([1, (2,), set(range(1000))]))


def test_python_equality_between_numbers_is_kept() -> None:
    test = _cut("assert f() == 1")
    assert test.holds(1.0)
    assert test.holds(True)
    assert not test.holds("1")
