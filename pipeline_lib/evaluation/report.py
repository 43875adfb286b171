"""What an evaluation says: typed, and as the JSON of reports/evaluation/<model>.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import DataError
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.storage.atomic import write_json


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """One model on one suite. Shares and rates are over samples, in [0, 1]; lengths are tokens."""

    suite: str
    version: int
    title: str
    kind: str
    problems: int
    samples: int
    """k: samples of each problem."""
    temperature: float
    top_p: float
    max_new_tokens: int
    pass_at_1: Estimate
    pass_at_k: Estimate
    cons_at_k: Estimate | None
    format_rate: float
    finished_rate: float
    """Share that ended by itself within the length limit."""
    language_share: float
    """Mean share of target-language words in the thought: language purity."""
    mixing_share: float
    """Share of responses whose thought mixes languages."""
    verification_share: float
    reflection_share: float
    backtracking_share: float
    mean_tokens: float
    unjudged_share: float
    """Share our verifier could not judge; counted as not correct."""
    outcomes: Mapping[str, int]
    by_category: Mapping[str, float]
    problem_ids: Sequence[str]
    correct_counts: Sequence[int]
    """Correct samples of each problem, in the order of problem_ids: what paired comparisons are made from."""

    @property
    def per_problem(self) -> list[float]:
        """pass@1 of each problem."""
        return [count / self.samples for count in self.correct_counts]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """One model on every suite."""

    model: str
    seed: int
    suites: Mapping[str, SuiteReport]

    @property
    def reasoning_score(self) -> float | None:
        """Mean pass@1 over the reasoning suites; None when there is none."""
        return _mean([suite.pass_at_1.mean for suite in self.suites.values() if suite.kind == "reasoning"])

    @property
    def general_score(self) -> float | None:
        """Mean pass@1 over the general suites; None when there is none."""
        return _mean([suite.pass_at_1.mean for suite in self.suites.values() if suite.kind == "general"])

    def reasoning_mean(self, measure: str) -> float | None:
        """Mean of a SuiteReport field over the samples of the reasoning suites (all suites when there is none)."""
        chosen = [suite for suite in self.suites.values() if suite.kind == "reasoning"] or list(
            self.suites.values()
        )
        weights = [suite.problems * suite.samples for suite in chosen]
        total = sum(getattr(suite, measure) * weight for suite, weight in zip(chosen, weights, strict=True))
        return round(total / sum(weights), 6) if weights else None

    def summary(self) -> dict[str, float]:
        """The numbers a table shows, flat."""
        numbers: dict[str, float | None] = {
            "reasoning_score": self.reasoning_score,
            "general_score": self.general_score,
        }
        for measure in ("format_rate", "language_share", "mixing_share", "verification_share", "mean_tokens"):
            numbers[measure] = self.reasoning_mean(measure)
        return {name: value for name, value in numbers.items() if value is not None}

    def metrics(self) -> dict[str, float]:
        """Everything as flat numbers for MLflow: `<suite>/<measure>` and the summary."""
        flat = dict(self.summary())
        for name, suite in self.suites.items():
            for measure, value in asdict(suite).items():
                if isinstance(value, dict) and set(value) == {"mean", "low", "high"}:
                    flat.update({f"{name}/{measure}_{part}": number for part, number in value.items()})
                elif isinstance(value, int | float) and measure not in ("version", "top_p", "temperature"):
                    flat[f"{name}/{measure}"] = float(value)
        return flat

    def to_json(self) -> dict[str, Any]:
        """The whole report as JSON values."""
        return {
            "model": self.model,
            "seed": self.seed,
            "summary": self.summary(),
            "suites": {name: _plain(asdict(suite)) for name, suite in self.suites.items()},
        }


def write_report(path: Path, report: EvaluationReport) -> None:
    """Write the report; the same report always gives the same bytes."""
    write_json(path, report.to_json())


def read_report(path: Path) -> EvaluationReport:
    """Read what `write_report` wrote. DataError when the file is missing or of another shape."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return EvaluationReport(
            model=tree["model"],
            seed=tree["seed"],
            suites={name: _suite(suite) for name, suite in tree["suites"].items()},
        )
    except FileNotFoundError:
        raise DataError(f"{path}: does not exist; run `dvc repro evaluate@{path.stem}`") from None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: is not an evaluation report ({error}); run `dvc repro evaluate@{path.stem}`"
        ) from error


def _suite(tree: dict[str, Any]) -> SuiteReport:
    estimates = {
        name: Estimate(**tree[name]) if tree[name] is not None else None
        for name in ("pass_at_1", "pass_at_k", "cons_at_k")
    }
    return SuiteReport(**{**tree, **estimates})


def _plain(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 6) if values else None
