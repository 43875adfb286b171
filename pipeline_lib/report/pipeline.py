"""The part of the page about the pipeline: every stage of dvc.yaml, what it reads and wrote, and the hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline_lib.orchestration.graph import Stage
from pipeline_lib.report.load import ReportData
from pipeline_lib.report.names import GROUPS, stage_name, text

SHOWN_METRICS = 14
"""Numbers of a stage shown in its panel."""


def visualiser(data: ReportData) -> str:
    """The stages in lanes, as the graph orders them; a click shows what a stage does and what it counted."""
    lanes: dict[str, list[Stage]] = {}
    for stage in data.graph.stages:
        lanes.setdefault(stage.group, []).append(stage)
    order = [group for group in GROUPS if group in lanes] + [group for group in lanes if group not in GROUPS]
    flow = "".join(
        f'<div class="lane"><h3>{text(GROUPS.get(group, group))}</h3>{"".join(_box(data, s) for s in lanes[group])}</div>'
        for group in order
    )
    details = "".join(
        f'<template id="stage-{text(stage.name)}">{_detail(data, stage)}</template>'
        for stage in data.graph.stages
    )
    return f'<div class="panel flow">{flow}<div class="detail" id="detail"></div></div>{details}'


def _box(data: ReportData, stage: Stage) -> str:
    return (
        f'<button class="stage" data-stage="{text(stage.name)}"><b>{text(stage_name(stage.name))}</b>'
        f"<span>{text(_count(data, stage))}</span></button>"
    )


def _count(data: ReportData, stage: Stage) -> str:
    """The one number that says most about a stage's data."""
    if stage.name in data.gates:
        gate = data.gates[stage.name]
        rows = sum(part["rows"] for part in gate["datasets"].values())
        return f"{'passed' if gate['success'] else 'failed'}, {rows:,} rows"
    metrics = data.metrics.get(stage.name, {})
    for key, unit in (
        ("kept", "kept"),
        ("train.kept", "problems"),
        ("steps", "steps"),
        ("samples", "samples"),
    ):
        if isinstance(metrics.get(key), int | float):
            return f"{metrics[key]:,.0f} {unit}"
    if stage.is_matrix:
        items = data.students if stage.name == "distill" else data.evaluations
        return f"{len(items)} models"
    return "" if stage.name.startswith("validate_") else next(iter(stage.outs), "")


def _detail(data: ReportData, stage: Stage) -> str:
    upstream = sorted(data.graph.reduced_upstream(stage.name))
    rows = [("after", ", ".join(stage_name(name) for name in upstream) or "nothing")]
    rows.append(("reads", ", ".join(dep for dep in stage.deps if not dep.endswith(".py")) or "–"))
    rows.append(("writes", ", ".join(stage.outs)))
    rows += [(name, value) for name, value in _numbers(data.metrics.get(stage.name, {}))][:SHOWN_METRICS]
    if stage.name in data.gates:
        rows += _expectations(data.gates[stage.name])
    listed = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows)
    return f"<h3>{text(stage_name(stage.name))}</h3>{text(stage.doc)}<dl>{listed}</dl>"


def _expectations(gate: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, f"{part['rows']:,} rows, {len(part['expectations'])} expectations, "
               f"{sum(not e['success'] for e in part['expectations'])} failed")
        for name, part in sorted(gate["datasets"].items())
    ]  # fmt: skip


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat += _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat.append(
                (
                    f"{prefix}{key}",
                    f"{value:,.4g}" if isinstance(value, float) and value % 1 else f"{value:,.0f}",
                )
            )
    return flat


def lineage(data: ReportData) -> str:
    """DVC's hashes of every data set and model of the run."""
    if not data.hashes:
        return '<p class="empty">dvc.lock holds no outputs: the stages were not run through DVC.</p>'
    writers = {out: stage for stage in data.graph.stages for out in stage.outs}
    rows = "".join(
        f"<tr><td>{text(path)}</td><td>{text(_writer(path, writers))}</td><td><code>{text(digest)}</code></td></tr>"
        for path, digest in sorted(data.hashes.items())
    )
    return (
        '<div class="panel scroll"><table><thead><tr><th>path</th><th>written by</th><th>content hash (DVC)</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _writer(path: str, writers: Mapping[str, Stage]) -> str:
    if path in writers:
        return stage_name(writers[path].name)
    folder, _, item = path.rpartition("/")
    stage = writers.get(f"{folder}/*")
    return f"{stage_name(stage.name)} @ {item}" if stage else ""
