"""pass@1, pass@k, cons@k and their bootstrap intervals. Pure functions of counts (v2 D.1; Chen et al. 2021).

The unit of the bootstrap is the problem: its k samples are not independent questions. Intervals are percentile
intervals from a generator with a fixed seed, so the same counts always give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.rewards.general import exact_key
from pipeline_lib.rewards.numbers import parse_number

BOOTSTRAP_SEED = 20250120
"""Fixed: an interval is a property of the counts, not of the run."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its interval, all in [0, 1] for a rate."""

    mean: float
    low: float
    high: float


def estimate(per_problem: Sequence[float], *, resamples: int, confidence: float) -> Estimate:
    """Return the mean of one number a problem, with its bootstrap interval.

    Args:
        per_problem: One value a problem; at least one.
        resamples: Bootstrap draws of the problems.
        confidence: Width of the interval, for example 0.95.
    """
    values = np.asarray(per_problem, dtype=np.float64)
    if values.size == 0:
        raise ValueError("an estimate needs at least one problem")
    low, high = np.quantile(_resampled_means(values, resamples), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(_rounded(values.mean()), _rounded(low), _rounded(high))


def difference(
    one: Sequence[float], other: Sequence[float], *, resamples: int, confidence: float
) -> Estimate:
    """Return mean(one) - mean(other) over the same problems, with a paired bootstrap interval.

    Both models answered the same questions, so a problem is drawn with both of its values.
    """
    if len(one) != len(other):
        raise ValueError(f"paired values of different problems: {len(one)} and {len(other)}")
    values = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    low, high = np.quantile(_resampled_means(values, resamples), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(_rounded(values.mean()), _rounded(low), _rounded(high))


def pass_at_1(correct: int, samples: int) -> float:
    """Return the mean over the samples of one problem (v2 D.1)."""
    return correct / samples


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Return the unbiased chance that one of k samples is correct: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021)."""
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples, there are {samples}")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def consensus(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """Return cons@k of one problem: 1 when the commonest answer is correct (v2 D.1; Wang et al. 2023).

    A sample without an answer does not vote. Where answers tie, the score is the share of the tied that is
    correct: what drawing one at random would give on average. Numbers are compared by value.
    """
    votes: dict[str, int] = {}
    right: dict[str, bool] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            key = _vote(answer)
            votes[key] = votes.get(key, 0) + 1
            right[key] = right.get(key, False) or is_correct
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [key for key, count in votes.items() if count == most]
    return sum(right[key] for key in tied) / len(tied)


def _vote(answer: str) -> str:
    value = parse_number(answer)
    return exact_key(answer) if value is None else str(value)


def _resampled_means(values: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """Means of `resamples` draws with replacement; in chunks, so that many problems need little memory."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    rows = max(1, 2_000_000 // values.size)
    means = []
    for first in range(0, resamples, rows):
        draws = generator.integers(0, values.size, size=(min(rows, resamples - first), values.size))
        means.append(values[draws].mean(axis=1))
    return np.concatenate(means)


def _rounded(value: float) -> float:
    """Six digits: more is noise, and summation order would show in the file that DVC hashes."""
    return round(float(value), 6)
