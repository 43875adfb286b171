"""Score models on the benchmark suites: of a run, from the registry, or from a directory.

A registered model is found by the run that its registry entry names. A directory takes the place of
`base` in a run of its own, so that it answers the same questions in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _projection import DAG_DEFAULTS, ROOT, create_run, project, restore_inputs
from _trigger_form import evaluate_form
from airflow.sdk import DAG

from pipeline_lib.orchestration.form import overrides_from_form
from pipeline_lib.orchestration.graph import Stage, load_graph
from pipeline_lib.orchestration.models import select_models

STAGES = ("prepare_problems", "prepare_base_model", "evaluate")


def _parameters(form: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], str]:
    selection = select_models(ROOT, form["models"], form["from_run"])
    return None, {**overrides_from_form({**form, "models": None}), **selection.overrides}, selection.revision


def _items(stage: Stage, params: Mapping[str, Any], form: Mapping[str, Any]) -> tuple[str, ...]:
    return select_models(ROOT, form["models"], form["from_run"]).names


with DAG(
    "evaluate", description=__doc__.partition("\n")[0], doc_md=__doc__, params=evaluate_form(), **DAG_DEFAULTS
) as dag:
    graph = load_graph(ROOT).subgraph(STAGES)
    project(graph, restore_inputs(create_run(_parameters), graph), _items)
