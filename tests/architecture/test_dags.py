"""DAG files: what importing them costs, and that they say what dvc.yaml says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.orchestration.graph import load_graph

PROJECT = Path(__file__).resolve().parents[2]
DAG_FILES = ("deepseek_r1", "distill", "evaluate")
HEAVY = (
    "torch",
    "vllm",
    "deepspeed",
    "mlflow",
    "great_expectations",
    "dvc",
    "transformers",
    "pandas",
    "boto3",
)
SHOW = """
import json, sys, time
import airflow.sdk, airflow.providers.standard.operators.hitl, airflow.utils.log.logging_mixin
from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, task
from airflow.sdk.definitions._internal import expandinput
from airflow.sdk.definitions import mappedoperator, decorators
import jsonschema
before = time.process_time()
found = {}
for name in sys.argv[2:]:
    module = __import__(name)
    dag = next(v for v in vars(module).values() if isinstance(v, DAG))
    found[dag.dag_id] = {
        t.task_id: {
            "upstream": sorted(t.upstream_task_ids),
            "mapped": hasattr(t, "expand_input"),
            "pool": t.pool,
            "group": t.task_group.group_id,
            "retries": t.retries,
            "links": [link.name for link in t.operator_extra_links],
        }
        for t in dag.tasks
    }
    found[dag.dag_id + ".params"] = {key: dag.params.get_param(key).schema for key in dag.params}
seconds = time.process_time() - before
heavy = [m for m in json.loads(sys.argv[1]) if m in sys.modules]
print("RESULT" + json.dumps({"seconds": seconds, "heavy": heavy, "dags": found}))
"""
FAIL = """
import json
from types import SimpleNamespace
from dags import _projection
from pipeline_lib.errors import ConfigError, DataError, StorageAway
from pipeline_lib.orchestration.links import MlflowUnreachable

told = []
ti = SimpleNamespace(xcom_push=lambda key, value: told.append(value))
_projection.get_current_context = lambda: {"ti": ti}

def fail(error):
    raise error

kinds = []
for error in (MlflowUnreachable("a"), StorageAway("b"), ConfigError("field", 1, "remedy"), DataError("d")):
    try:
        _projection._or_fail(lambda: fail(error))
    except Exception as raised:
        kinds.append(type(raised).__name__)
print("RESULT" + json.dumps([kinds, told]))
"""


@pytest.fixture(scope="module")
def airflow_python(tmp_path_factory: pytest.TempPathFactory):
    """Runs a program where Airflow can be imported; what it says after RESULT."""
    env = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT}:{PROJECT / 'dags'}",
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
    }

    def run(program: str, *arguments: str):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("RESULT")[2])

    return run


@pytest.fixture(scope="module")
def imported(airflow_python):
    return airflow_python(SHOW, json.dumps(HEAVY), *DAG_FILES)


def test_what_is_away_is_tried_again_and_a_mistake_is_not(airflow_python):
    kinds, told = airflow_python(FAIL)
    assert kinds == ["AirflowException", "AirflowException", "AirflowFailException", "AirflowFailException"]
    assert told == ["a", "b", "field = 1: remedy", "d"]


def test_nothing_heavy_is_imported(imported):
    assert imported["heavy"] == []


def test_all_dag_files_together_cost_less_than_a_second_of_cpu(imported):
    assert imported["seconds"] < 1.0


def test_a_stage_is_a_task_and_an_edge_is_an_edge(imported):
    graph, tasks = load_graph(PROJECT), imported["dags"]["deepseek_r1"]
    extra = {"create_run", "finish_run", "approve_promotion"} | {
        f"plan_{s.name}" for s in graph.stages if s.is_matrix
    }
    assert set(tasks) == set(graph.names) | extra
    for stage in graph.stages:
        task = tasks[stage.name]
        assert set(task["upstream"]) & set(graph.names) == graph.reduced_upstream(stage.name)
        assert task["mapped"] == stage.is_matrix
        assert task["pool"] == (stage.pool or "default_pool")
        assert task["group"].removesuffix("_group") == stage.group
        assert task["retries"] == 2
        assert task["links"] == ["MLflow run", "Data Docs"]
        if not graph.upstream[stage.name]:
            assert "create_run" in task["upstream"]


def test_promotion_waits_for_the_approval(imported):
    tasks = imported["dags"]["deepseek_r1"]
    assert "approve_promotion" in tasks["register_models"]["upstream"]
    assert "report" in tasks["approve_promotion"]["upstream"]


def test_every_form_field_has_a_section_a_title_and_a_description(imported):
    for dag in DAG_FILES:
        for name, schema in imported["dags"][f"{dag}.params"].items():
            assert {"section", "title"} <= set(schema), name


def test_the_profile_field_offers_the_profiles_there_are(imported):
    offered = imported["dags"]["deepseek_r1.params"]["profile"]["enum"]
    assert sorted(offered) == sorted(p.stem for p in (PROJECT / "profiles").glob("*.yaml"))


def test_dag_files_find_each_other_by_names_no_library_has():
    shadowing = {path.stem for path in (PROJECT / "dags").glob("*.py")} - {
        "deepseek_r1",
        "distill",
        "evaluate",
    }
    assert all(name.startswith("_") for name in shadowing)
