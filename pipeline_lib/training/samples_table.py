"""The table of sample rollouts that people read beside the curves: what the model wrote, and how it was judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline_lib.storage.atomic import atomic_path
from pipeline_lib.training.rollout_step import Group


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One kept sample."""

    step: int
    problem_id: str
    domain: str
    prompt: str
    response: str
    outcome: str
    extracted: str
    reward: float
    tokens: int
    finished: bool


def rows_of(step: int, groups: Sequence[Group], count: int) -> list[RolloutRow]:
    """The first sample of the first `count` groups of a step, and one whole group whose rewards differ.

    The whole group is what the report draws its advantages from; rows of one problem and step belong together.
    """
    mixed = next((g for g in groups if len({r.total for r in g.rewards if not r.masked}) > 1), None)
    shown = [(group, 0) for group in groups[:count] if group is not mixed]
    if mixed is not None:
        shown += [(mixed, index) for index in range(len(mixed.completions))]
    return [
        RolloutRow(
            step=step,
            problem_id=group.problem.id,
            domain=group.problem.domain.value,
            prompt=group.problem.prompt,
            response=group.completions[index].text,
            outcome=group.rewards[index].verdict.outcome.value,
            extracted=group.rewards[index].verdict.extracted or "",
            reward=group.rewards[index].total,
            tokens=len(group.completions[index].token_ids),
            finished=group.completions[index].finished,
        )
        for group, index in shown
    ]


def keep_steps(steps: int, rows: int, per_step: int) -> frozenset[int]:
    """Steps whose samples are kept: spread evenly from the first to the last, `rows` samples in all."""
    wanted = min(max(rows // max(per_step, 1), 1), steps) if rows and steps else 0
    if wanted <= 1:
        return frozenset({0}) if wanted else frozenset()
    return frozenset(round(i * (steps - 1) / (wanted - 1)) for i in range(wanted))


def write_rollouts(path: Path, rows: Sequence[RolloutRow]) -> None:
    """Write the table as Parquet: the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("step", pa.int64()),
            ("problem_id", pa.string()),
            ("domain", pa.string()),
            ("prompt", pa.string()),
            ("response", pa.string()),
            ("outcome", pa.string()),
            ("extracted", pa.string()),
            ("reward", pa.float64()),
            ("tokens", pa.int64()),
            ("finished", pa.bool_()),
        ]
    )
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    with atomic_path(path, table.nbytes) as temporary, temporary.open("wb") as sink:
        pq.write_table(table, sink, compression="zstd", version="2.6")
