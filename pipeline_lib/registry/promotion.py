"""Which model is better: the promotion rule of mlflow/registry_policy.yaml as a pure function of two scorecards.

Better on the primary metric, and no regression beyond the interval on the others. Where both models answered the
same questions the comparison is paired; where a suite changed in between, its two samples are drawn independently.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from pipeline_lib.errors import ConfigError
from pipeline_lib.evaluation.report import EvaluationReport
from pipeline_lib.evaluation.statistics import BOOTSTRAP_SEED, Estimate
from pipeline_lib.params._base import Fraction, NonNegativeFloat, PositiveInt, StrictModel


class PrimaryRule(StrictModel):
    """What has to get better."""

    kind: Literal["reasoning", "general"]
    margin: NonNegativeFloat = 0.0
    confidence: Fraction = 0.95
    resamples: PositiveInt = 2000


class RateGuard(StrictModel):
    """How far a rate may move the wrong way."""

    direction: Literal["higher", "lower"] = Field(description="Which way is better.")
    tolerance: NonNegativeFloat


class Guards(StrictModel):
    """What must not get worse."""

    suite_tolerance: NonNegativeFloat = 0.0
    format_rate: RateGuard
    mixing_share: RateGuard


class Aliases(StrictModel):
    """Names of the registry aliases."""

    candidate: str
    champion: str


class RegistryPolicy(StrictModel):
    """mlflow/registry_policy.yaml."""

    version: Literal[1]
    baseline: str
    primary: PrimaryRule
    guards: Guards
    aliases: Aliases


@dataclass(frozen=True, slots=True)
class SuiteScore:
    """What promotion needs of a suite; small enough for a registry tag."""

    kind: str
    samples: int
    questions: str
    """Hash of the suite's version and problem ids, in order: equal where the same questions were asked."""
    correct_counts: tuple[int, ...]
    format_rate: float
    mixing_share: float

    @property
    def per_problem(self) -> NDArray[np.float64]:
        """pass@1 of each problem."""
        return np.asarray(self.correct_counts, dtype=np.float64) / self.samples


Scorecard = Mapping[str, SuiteScore]
"""Suite -> score."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Promote or not, and why, in sentences for the model card."""

    promote: bool
    reasons: tuple[str, ...]
    primary: Estimate
    """Change of the primary metric, candidate minus incumbent."""


def read_policy(path: Path) -> RegistryPolicy:
    """Read the policy. ConfigError names the field."""
    try:
        return RegistryPolicy.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError("register_models.policy", str(path), "no such file") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path.name}: {field}", first.get("input"), first["msg"]) from error


def scorecard(report: EvaluationReport) -> dict[str, SuiteScore]:
    """Reduce an evaluation to what promotion needs."""
    return {
        name: SuiteScore(
            kind=suite.kind,
            samples=suite.samples,
            questions=hashlib.sha256(json.dumps([suite.version, *suite.problem_ids]).encode()).hexdigest()[
                :16
            ],
            correct_counts=tuple(suite.correct_counts),
            format_rate=suite.format_rate,
            mixing_share=suite.mixing_share,
        )
        for name, suite in report.suites.items()
    }


def score_to_text(score: SuiteScore) -> str:
    """A suite's score as the text of a registry tag."""
    return json.dumps(asdict(score), sort_keys=True, separators=(",", ":"))


def score_from_text(text: str) -> SuiteScore:
    """Read back `score_to_text`."""
    tree: dict[str, Any] = json.loads(text)
    return SuiteScore(**{**tree, "correct_counts": tuple(tree["correct_counts"])})


def decide(
    candidate: Scorecard, incumbent: Scorecard, policy: RegistryPolicy, *, margin: float = 0.0
) -> Decision:
    """Compare two models over the suites both were asked.

    Args:
        candidate: The new model.
        incumbent: The champion, or the baseline where there is none.
        policy: The rule.
        margin: Asked on top of the policy's own margin (register_models.margin).

    Raises:
        ConfigError: No suite of the primary kind is common to both.
    """
    rule = policy.primary
    common = [name for name in candidate if name in incumbent]
    primary_suites = [name for name in common if candidate[name].kind == rule.kind]
    if not primary_suites:
        raise ConfigError(
            "evaluate.suites", sorted(candidate), f"no {rule.kind} suite is common to both models"
        )
    changes = {
        name: _change(candidate[name], incumbent[name], rule.resamples, seed=number)
        for number, name in enumerate(sorted(common))
    }
    primary = _interval(np.mean([changes[name][0] for name in primary_suites]),
                        np.mean([changes[name][1] for name in primary_suites], axis=0), rule.confidence)  # fmt: skip
    needed = rule.margin + margin
    better = primary.mean > needed and primary.low > 0.0
    reasons = [
        f"mean pass@1 over the {rule.kind} suites changed by {_points(primary)}: "
        + (
            "better"
            if better
            else f"not better by more than {100 * needed:g} points with the interval above zero"
        )
    ]
    worse = []
    for name in sorted(common):
        change = _interval(*changes[name], rule.confidence)
        if change.high < -policy.guards.suite_tolerance:
            worse.append(f"{name}: pass@1 fell by {_points(change)}, beyond the interval")
    for measure in ("format_rate", "mixing_share"):
        worse += _rate_guard(measure, getattr(policy.guards, measure), candidate, incumbent, primary_suites)
    return Decision(better and not worse, (*reasons, *(worse or ["no other metric regressed"])), primary)


def _change(
    candidate: SuiteScore, incumbent: SuiteScore, resamples: int, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """Change of pass@1 and `resamples` bootstrap draws of it."""
    rng = np.random.default_rng([BOOTSTRAP_SEED, seed])
    one, other = candidate.per_problem, incumbent.per_problem
    mean = float(one.mean() - other.mean())
    if candidate.questions == incumbent.questions:
        return mean, _draw(one - other, resamples, rng)
    return mean, _draw(one, resamples, rng) - _draw(other, resamples, rng)


def _draw(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.array([values[rng.integers(0, values.size, values.size)].mean() for _ in range(resamples)])


def _interval(mean: Any, draws: NDArray[np.float64], confidence: float) -> Estimate:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(round(float(mean), 6), round(float(low), 6), round(float(high), 6))


def _rate_guard(
    measure: str, guard: RateGuard, candidate: Scorecard, incumbent: Scorecard, suites: list[str]
) -> list[str]:
    new, old = (
        float(np.mean([getattr(card[name], measure) for name in suites])) for card in (candidate, incumbent)
    )
    loss = old - new if guard.direction == "higher" else new - old
    if loss <= guard.tolerance:
        return []
    return [
        f"{measure} went from {100 * old:.1f} % to {100 * new:.1f} %, more than {100 * guard.tolerance:g} points"
    ]


def _points(change: Estimate) -> str:
    return f"{100 * change.mean:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
