"""Difficulty from the base model's own pass rate (lesson ch.1: the base fails ~95 %; what it solves >= 90 % is dropped).

The pass rate of a problem is correct / judged over its k samples. Samples that could not be judged (a timeout of
our verifier, an error in it) do not count; a problem with no judged sample stays unmeasured and is dropped.
An unparsed response is a failure to answer, so here it counts as a failure.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline_lib.errors import DataError
from pipeline_lib.types import Outcome, Problem

BINS = 10


@dataclass(frozen=True, slots=True)
class Selection:
    """Problems worth training on, and why the others are not."""

    kept: list[Problem]
    """In the order given, `difficulty` filled."""
    too_easy: int
    unsolved_dropped: int
    unmeasured: int
    over_limit: int
    histogram: tuple[int, ...]
    """Measured problems by pass rate, BINS bins of equal width over [0, 1]; 1.0 falls in the last."""
    mean_pass_rate: float


def pass_rate(outcomes: Sequence[Outcome]) -> float | None:
    """Share of correct among the samples that were judged; None when none was."""
    judged = [o for o in outcomes if o not in (Outcome.TIMEOUT, Outcome.VERIFIER_ERROR)]
    return sum(o is Outcome.CORRECT for o in judged) / len(judged) if judged else None


def select_hard(
    problems: Sequence[Problem],
    outcomes: Mapping[str, Sequence[Outcome]],
    *,
    drop_above: float = 0.9,
    keep_unsolved: float = 1.0,
    max_problems: int | None = None,
    seed: int = 0,
) -> Selection:
    """Fill in difficulties and keep the hard problems.

    Args:
        problems: What was sampled.
        outcomes: Problem id -> one outcome for each sample.
        drop_above: Drop problems with this pass rate or more.
        keep_unsolved: Share of the never-solved problems to keep.
        max_problems: Keep at most so many, drawn evenly from what is left.
        seed: Decides which unsolved problems and which of too many stay.

    Raises:
        DataError: Nothing is left to train on; says what dropped everything.
    """
    rates = {problem.id: pass_rate(outcomes[problem.id]) for problem in problems}
    measured = [
        replace(problem, difficulty=rate) for problem in problems if (rate := rates[problem.id]) is not None
    ]
    hard = [problem for problem in measured if _rate(problem) < drop_above]
    unsolved = [problem.id for problem in hard if _rate(problem) == 0.0]
    draw = random.Random(seed)
    staying = set(draw.sample(unsolved, round(keep_unsolved * len(unsolved))))
    candidates = [problem for problem in hard if _rate(problem) > 0.0 or problem.id in staying]
    kept = candidates
    if max_problems is not None and len(candidates) > max_problems:
        kept = [candidates[index] for index in sorted(draw.sample(range(len(candidates)), max_problems))]
    histogram = [0] * BINS
    for problem in measured:
        histogram[min(int(_rate(problem) * BINS), BINS - 1)] += 1
    selection = Selection(
        kept=kept,
        too_easy=len(measured) - len(hard),
        unsolved_dropped=len(hard) - len(candidates),
        unmeasured=len(problems) - len(measured),
        over_limit=len(candidates) - len(kept),
        histogram=tuple(histogram),
        mean_pass_rate=sum(map(_rate, measured)) / len(measured) if measured else 0.0,
    )
    if not kept:
        raise DataError(
            f"no problem is left to train on: of {len(problems)}, {selection.too_easy} were solved at least "
            f"{drop_above:.0%} of the time, {selection.unsolved_dropped} never, {selection.unmeasured} could not be "
            "judged. Add harder problems, or change select_hard_problems.drop_above or keep_unsolved."
        )
    return selection


def _rate(problem: Problem) -> float:
    assert problem.difficulty is not None
    return problem.difficulty
