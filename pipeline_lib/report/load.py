"""Everything the report shows, read from the files the stages wrote. Nothing here looks at a clock or a host."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.evaluation.report import EvaluationReport, read_report
from pipeline_lib.orchestration.graph import Graph, load_graph
from pipeline_lib.tracking.outputs import locked_stages


@dataclass(frozen=True, slots=True)
class Rollout:
    """One kept sample of a training run."""

    step: int
    problem_id: str
    prompt: str
    response: str
    outcome: str
    reward: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Curve:
    """The steps of a training run: column -> (step, value) pairs."""

    columns: Mapping[str, Sequence[tuple[float, float]]]

    def points(self, name: str) -> Sequence[tuple[float, float]]:
        """The pairs of a column; empty where the run has no such column."""
        return self.columns.get(name, ())


@dataclass(frozen=True, slots=True)
class ReportData:
    """What the page is made of."""

    title: str
    profile: str
    seed: int
    evaluations: Mapping[str, EvaluationReport]
    """Model -> evaluation, in the order of evaluate.models."""
    curves: Mapping[str, Curve]
    metrics: Mapping[str, Mapping[str, Any]]
    """reports/metrics/<name>.json by name."""
    gates: Mapping[str, Mapping[str, Any]]
    rollouts: Mapping[str, Sequence[Rollout]]
    graph: Graph
    hashes: Mapping[str, str]
    """Path -> DVC hash of the data and models of the stages before the report."""
    teacher: str
    students: Sequence[str]
    student_rl: str
    """The student that was also trained by GRPO alone, as model student_rl."""
    sample_rows: int


def load_report_data(root: Path, params: Any) -> ReportData:
    """Read the run in `root`. `params` is the whole Params. DataError when an evaluation is missing or broken."""
    graph = load_graph(root)
    return ReportData(
        title=params.report.title,
        profile=params.run.profile,
        seed=params.run.seed,
        evaluations={
            model: _in_order(read_report(root / f"reports/evaluation/{model}.json"), params.evaluate.suites)
            for model in params.evaluate.models
        },
        curves={path.stem: read_curve(path) for path in sorted((root / "reports/plots").glob("*.csv"))},
        metrics=_documents(root / "reports/metrics"),
        gates=_documents(root / "reports/gates"),
        rollouts={p.stem: read_rollouts(p) for p in sorted((root / "data/rollouts").glob("*.parquet"))},
        graph=graph,
        hashes=_hashes(root, graph),
        teacher=params.collect_distillation.teacher,
        students=tuple(params.distill.students),
        student_rl=params.train_student_rl.student,
        sample_rows=params.report.sample_rows,
    )


def read_curve(path: Path) -> Curve:
    """Read a CSV with a `step` column; empty cells are left out."""
    columns: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            step = float(row["step"])
            for name, text in row.items():
                if name != "step" and text:
                    columns.setdefault(name, []).append((step, float(text)))
    return Curve(columns)


def read_rollouts(path: Path) -> list[Rollout]:
    """Read the sample table of a training stage."""
    import pyarrow.parquet as pq

    names = list(Rollout.__slots__)
    return [Rollout(**row) for row in pq.read_table(path, columns=names).to_pylist()]


def _in_order(report: EvaluationReport, suites: Sequence[str]) -> EvaluationReport:
    """The suites as evaluate.suites lists them; the file holds them sorted."""
    ordered = {name: report.suites[name] for name in suites if name in report.suites}
    return EvaluationReport(report.model, report.seed, ordered)


def _documents(folder: Path) -> dict[str, Mapping[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def _hashes(root: Path, graph: Graph) -> dict[str, str]:
    """Hashes of what the stages before `report` wrote: later ones may still be those of an earlier run."""
    before = graph.ancestors("report") if "report" in graph.names else frozenset(graph.names)
    return {
        out["path"].rstrip("/"): out["md5"]
        for name, entry in sorted(locked_stages(root).items())
        if name.partition("@")[0] in before
        for out in entry.get("outs") or ()
        if out["path"].startswith(("data/", "models/")) and "md5" in out
    }
