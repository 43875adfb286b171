"""Distillation alone: a teacher of a finished run, any students, and how they score.

The run starts from the commit of the teacher's run, so its data and models are restored from the DVC
cache; only the fan-out below them is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _projection import DAG_DEFAULTS, ROOT, create_run, project, restore_inputs
from _trigger_form import distill_form
from airflow.sdk import DAG

from pipeline_lib.orchestration.form import overrides_from_form
from pipeline_lib.orchestration.graph import Stage, load_graph
from pipeline_lib.orchestration.worktree import finished_run

STAGES = ("collect_distillation", "validate_distillation", "distill", "evaluate")


def _parameters(form: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], str]:
    return None, overrides_from_form(form), finished_run(ROOT, form["from_run"])


def _items(stage: Stage, params: Mapping[str, Any], form: Mapping[str, Any]) -> tuple[str, ...]:
    """The run's students; `evaluate` scores their teacher too."""
    students = tuple(params["distill"]["students"])
    return (form["teacher"], *students) if stage.name == "evaluate" else students


with DAG(
    "distill", description=__doc__.partition("\n")[0], doc_md=__doc__, params=distill_form(), **DAG_DEFAULTS
) as dag:
    graph = load_graph(ROOT).subgraph(STAGES)
    project(graph, restore_inputs(create_run(_parameters), graph), _items)
