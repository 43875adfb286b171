"""Difficulty is the base's pass rate; what it solves at least 90 % of the time is dropped (lesson ch.1)."""

from __future__ import annotations

import pytest

from pipeline_lib.data.difficulty import pass_rate, select_hard
from pipeline_lib.errors import DataError
from pipeline_lib.types import Domain, Outcome, Problem

C, W, U, T, E = Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED, Outcome.TIMEOUT, Outcome.VERIFIER_ERROR


def _problems(count: int) -> list[Problem]:
    return [Problem(str(number), Domain.MATH, f"q{number}", answer="1") for number in range(count)]


def test_our_own_failures_do_not_count_and_an_unparsed_answer_does() -> None:
    assert pass_rate([C, W, T, E]) == 0.5
    assert pass_rate([C, U]) == 0.5
    assert pass_rate([T, E]) is None


def test_easy_problems_are_dropped_and_difficulty_is_filled() -> None:
    outcomes = {"0": [C] * 10, "1": [C] * 9 + [W], "2": [C] * 8 + [W] * 2, "3": [W] * 10, "4": [T]}
    selection = select_hard(_problems(5), outcomes)
    assert [(problem.id, problem.difficulty) for problem in selection.kept] == [("2", 0.8), ("3", 0.0)]
    assert (selection.too_easy, selection.unmeasured) == (2, 1)
    assert selection.histogram == (1, 0, 0, 0, 0, 0, 0, 0, 1, 2)
    assert selection.mean_pass_rate == pytest.approx((1 + 0.9 + 0.8 + 0) / 4)


def test_a_share_of_the_unsolved_is_kept_and_the_seed_decides_which() -> None:
    outcomes = {str(number): [W] for number in range(100)}
    one = select_hard(_problems(100), outcomes, keep_unsolved=0.25, seed=1)
    assert (len(one.kept), one.unsolved_dropped) == (25, 75)
    assert one == select_hard(_problems(100), outcomes, keep_unsolved=0.25, seed=1)
    assert one.kept != select_hard(_problems(100), outcomes, keep_unsolved=0.25, seed=2).kept


def test_the_limit_keeps_the_order() -> None:
    outcomes = {str(number): [C, W] for number in range(50)}
    selection = select_hard(_problems(50), outcomes, max_problems=10)
    ids = [int(problem.id) for problem in selection.kept]
    assert len(ids) == 10
    assert ids == sorted(ids)
    assert selection.over_limit == 40


def test_nothing_left_says_why() -> None:
    with pytest.raises(DataError, match=r"of 2, 1 were solved at least 90% .* 1 could not be judged"):
        select_hard(_problems(2), {"0": [C], "1": [T]})
