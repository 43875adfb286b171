"""What the verifier says of rows: a sample of a file's answers, reference solutions and verdicts is judged again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline_lib.rewards.combine import Scorer
from pipeline_lib.rewards.response import ANSWER, END_ANSWER, END_THINK, THINK
from pipeline_lib.types import Domain, Outcome, Problem

Row = dict[str, Any]
"""A row of a file by column; `number` is its number in the file, from 0."""

_SEED = 0
"""Which rows are verified again must not change between two runs of the same data."""


def text(row: Row, name: str) -> str:
    """A column's text; empty where the row has something else there."""
    return row[name] if isinstance(row[name], str) else ""


def draw(numbers: Sequence[int], count: int) -> Sequence[int]:
    """All of them, or `count` of them, in order and the same every time."""
    if len(numbers) <= count:
        return numbers
    return [numbers[place] for place in sorted(random.Random(_SEED).sample(range(len(numbers)), count))]


def judge_truths(scorer: Scorer, rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    """An answer parses when our own verifier accepts it as the answer to its own problem."""
    verdicts = verify(scorer, [_problem(row) for row in rows], [_as_response(row["answer"]) for row in rows])
    for row, (outcome, detail) in zip(rows, verdicts, strict=True):
        parses = None if outcome is None else outcome == Outcome.CORRECT
        yield row["number"], {"answer_parses": parses, "failed_test": detail or None}


def judge_references(scorer: Scorer, rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    """The reference solution must pass its own tests in the sandbox."""
    verdicts = verify(
        scorer, [_problem(row) for row in rows], [_as_response(row["reference"]) for row in rows]
    )
    for row, (outcome, detail) in zip(rows, verdicts, strict=True):
        yield row["number"], {"reference_verdict": outcome, "failed_test": detail or None}


def _problem(row: Row) -> Problem:
    """The row as the verifier wants it; whatever else is wrong with it is another expectation's business."""
    return Problem(
        id=str(row["number"]),
        domain=Domain(row["domain"]),
        prompt=text(row, "prompt"),
        answer=row["answer"],
        tests=tuple(str(test) for test in row["tests"] or ()),
        entry_point=row["entry_point"],
    )


def _as_response(answer: str) -> str:
    return f"{THINK}{END_THINK}{ANSWER}{answer}{END_ANSWER}"


def verify(
    scorer: Scorer, problems: Sequence[Problem], responses: Sequence[str]
) -> list[tuple[str | None, str]]:
    """(Outcome, failed test or detail) of each response; the outcome is None where it took too long.

    A timeout is our machine's fault and not the row's: such a row is judged once more, and then counts as not asked.
    """
    verdicts = scorer.verify_batch(problems, responses)
    late = [place for place, verdict in enumerate(verdicts) if verdict.outcome is Outcome.TIMEOUT]
    if late:
        again = scorer.verify_batch([problems[place] for place in late], [responses[place] for place in late])
        for place, verdict in zip(late, again, strict=True):
            verdicts[place] = verdict
    return [
        (
            None if verdict.outcome is Outcome.TIMEOUT else str(verdict.outcome),
            ""
            if verdict.outcome in (Outcome.CORRECT, Outcome.TIMEOUT)
            else verdict.failed_test or verdict.detail,
        )
        for verdict in verdicts
    ]
