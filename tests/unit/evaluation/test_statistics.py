"""The arithmetic of an evaluation, against brute force and published definitions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.evaluation.statistics import consensus, difference, estimate, pass_at_1, pass_at_k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_correct_sample(case: tuple[int, int, int]) -> None:
    samples, correct, k = case
    flags = [index < correct for index in range(samples)]
    subsets = list(combinations(flags, k))
    assert pass_at_k(correct, samples, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))


def test_pass_at_1_is_pass_at_k_with_k_1() -> None:
    assert pass_at_1(3, 8) == pass_at_k(3, 8, 1) == 0.375


def test_pass_at_k_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="needs at least 9 samples"):
        pass_at_k(1, 8, 9)


@pytest.mark.parametrize(
    ("answers", "correct", "score"),
    [
        (["5", "5.0", "7"], [True, True, False], 1.0),
        (["7", "7", "5"], [False, False, True], 0.0),
        (["5", "7"], [True, False], 0.5),
        ([None, None, "5"], [False, False, True], 1.0),
        ([None, None], [False, False], 0.0),
        (["Yes.", "yes", "no"], [True, True, False], 1.0),
    ],
)
def test_consensus_is_the_majority_with_ties_shared(
    answers: list[str | None], correct: list[bool], score: float
) -> None:
    assert consensus(answers, correct) == score


def test_an_interval_covers_the_mean_and_is_the_same_twice() -> None:
    values = [0.0, 0.25, 0.5, 1.0] * 25
    one = estimate(values, resamples=1000, confidence=0.95)
    assert one == estimate(values, resamples=1000, confidence=0.95)
    assert one.low < one.mean == 0.4375 < one.high
    spread = 1.96 * np.std(values) / np.sqrt(len(values))
    assert one.high - one.mean == pytest.approx(spread, rel=0.15)


def test_an_interval_narrows_with_problems_and_with_confidence() -> None:
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 1000
    wide = estimate(few, resamples=500, confidence=0.95)
    assert wide.high - wide.low > 5 * (lambda e: e.high - e.low)(
        estimate(many, resamples=500, confidence=0.95)
    )
    assert wide.high - wide.low > (lambda e: e.high - e.low)(estimate(few, resamples=500, confidence=0.5))


def test_nominal_coverage_of_the_interval() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        values = rng.binomial(4, 0.3, size=100) / 4
        interval = estimate(values.tolist(), resamples=300, confidence=0.9)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.84 <= covered / 200 <= 0.96


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    rng = np.random.default_rng(1)
    one = rng.random(200)
    other = (one - 0.05).tolist()
    paired = difference(one.tolist(), other, resamples=500, confidence=0.95)
    assert paired.low == pytest.approx(0.05)
    assert paired.high == pytest.approx(0.05)
    with pytest.raises(ValueError, match="different problems"):
        difference([1.0], [1.0, 0.0], resamples=10, confidence=0.9)
