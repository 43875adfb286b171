"""What a step of RL is measured by (issue 2). Deterministic: no times, no speeds; those go to MLflow alone.

Behaviour is measured twice: by words (`rewards.behaviour`, every model), and where a world's step words mean one
thing each, exactly (the micro world's measures); both are in the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline_lib.data.microworld.measures import backtrack_count, verification_count
from pipeline_lib.rewards.behaviour import (
    backtracking_share,
    is_mixed,
    reflection_share,
    verification_share,
)
from pipeline_lib.rewards.response import is_well_formed
from pipeline_lib.training.rollout_step import Group
from pipeline_lib.types import Domain, Outcome

Row = dict[str, float]
"""One step: metric name -> value. A metric without a sample in this step is left out."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one sample contributes to the metrics; small enough to travel between ranks."""

    domain: str
    outcome: str
    total: float
    parts: tuple[tuple[str, float], ...]
    masked: bool
    tokens: int
    finished: bool
    surprise: float
    """Sum of -log p under the sampler: its expectation is the policy's entropy."""
    text: str


def judged(groups: Sequence[Group]) -> list[list[Judged]]:
    """The groups' samples without their tokens."""
    return [
        [
            Judged(
                domain=group.problem.domain.value,
                outcome=reward.verdict.outcome.value,
                total=reward.total,
                parts=tuple(sorted(reward.parts.items())),
                masked=reward.masked,
                tokens=len(completion.token_ids),
                finished=completion.finished,
                surprise=-sum(completion.logprobs),
                text=completion.text,
            )
            for completion, reward in zip(group.completions, group.rewards, strict=True)
        ]
        for group in groups
    ]


def sample_metrics(groups: Sequence[Sequence[Judged]]) -> Row:
    """Metrics that the samples alone decide, over all ranks' groups."""
    samples = [sample for group in groups for sample in group]
    reasoning = [s for s in samples if s.domain != Domain.GENERAL.value]
    texts = [sample.text for sample in reasoning or samples]
    row: Row = {
        "reward": _mean([s.total for s in samples if not s.masked]),
        "accuracy": _accuracy(samples),
        "length": _mean([s.tokens for s in samples]),
        "truncated_share": _mean([not s.finished for s in samples]),
        "format_rate": _mean([is_well_formed(s.text) for s in samples]),
        "language_mixing": _mean([is_mixed(text) for text in texts]),
        "verification_share": verification_share(texts),
        "reflection_share": reflection_share(texts),
        "backtracking_share": backtracking_share(texts),
        "exact_verification_share": _mean([verification_count(text) > 0 for text in texts]),
        "exact_backtracking_share": _mean([backtrack_count(text) > 0 for text in texts]),
        "entropy": sum(s.surprise for s in samples) / max(sum(s.tokens for s in samples), 1),
        "masked_share": _mean([s.masked for s in samples]),
        "zero_variance_groups": float(sum(_is_flat(group) for group in groups)),
        "all_wrong_share": _mean(
            [all(s.outcome != Outcome.CORRECT.value for s in group) for group in groups]
        ),
    }
    for domain in Domain:
        of_domain = [s for s in samples if s.domain == domain.value]
        if of_domain:
            row[f"accuracy_{domain.value}"] = _accuracy(of_domain)
    for name in sorted({name for s in samples for name, _ in s.parts}):
        row[f"reward_{name}"] = _mean([dict(s.parts).get(name, 0.0) for s in samples])
    for outcome in Outcome:
        row[f"verdict_{outcome.value}"] = float(sum(s.outcome == outcome.value for s in samples))
    return row


def final_summary(rows: Sequence[Row], *, window: int = 10) -> dict[str, float]:
    """The numbers of a whole run: `<metric>` is the mean of the last `window` steps, `first_<metric>` of the first."""
    summary: dict[str, float] = {"steps": float(len(rows))}
    shown = (
        "accuracy",
        "reward",
        "length",
        "format_rate",
        "verification_share",
        "language_mixing",
        "entropy",
        "kl",
    )
    for name in shown:
        first, last = ([row[name] for row in part if name in row] for part in (rows[:window], rows[-window:]))
        if last:
            summary[name], summary[f"first_{name}"] = _mean(last), _mean(first)
    for name in ("skipped_step", "resampled_groups"):
        summary[f"{name}s" if name == "skipped_step" else name] = sum(row.get(name, 0.0) for row in rows)
    return summary


def to_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """CSV with a column for every metric any step has, six significant digits, empty where a step has none."""
    names = ["step", *sorted({name for row in rows for name in row} - {"step"})]
    lines = [",".join(names)]
    lines += [",".join(f"{row[name]:.6g}" if name in row else "" for name in names) for row in rows]
    return "\n".join(lines) + "\n"


def _accuracy(samples: Sequence[Judged]) -> float:
    """Share of correct among the samples that the verifier could judge."""
    return _mean([s.outcome == Outcome.CORRECT.value for s in samples if not s.masked])


def _is_flat(group: Sequence[Judged]) -> bool:
    return len({s.total for s in group if not s.masked}) < 2


def _mean(values: Sequence[float] | Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
