"""The last table of a demo: models × suites, from results.json as `pipeline_lib.report.results` writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table


def results_table(path: Path) -> Table:
    """Return a table of every model's score on every suite, as results.json has them."""
    results = json.loads(path.read_text(encoding="utf-8"))
    models: Mapping[str, Mapping[str, Mapping[str, float]]] = results["models"]
    suites = list(dict.fromkeys(suite for scores in models.values() for suite in scores))
    table = Table(title="pass@1 in percent, with its 95 % interval")
    table.add_column("model")
    for suite in suites:
        table.add_column(suite, justify="right")
    for model, scores in models.items():
        table.add_row(model, *(_score(scores.get(suite)) for suite in suites))
    return table


def _score(scores: Mapping[str, float] | None) -> str:
    if scores is None:
        return "–"
    text = f"{100 * scores['pass@1']:.1f}"
    if "low" in scores and "high" in scores:
        text += f" [dim]\\[{100 * scores['low']:.0f}–{100 * scores['high']:.0f}][/]"
    return text
