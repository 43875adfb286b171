"""The real Airflow, DVC and MLflow over a tiny pipeline, started once for all tests that ask for it.

All runs are triggered together: they are also the test that concurrent runs do not meet, and on two
cores the whole costs little more than one of them.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.orchestration.worktree import run_name, worktree_path
from pipeline_lib.services import stack as stacks
from pipeline_lib.services.airflow_api import AirflowApi

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny_pipeline"))
from build_tiny import build

RUN_TIMEOUT_S = 1500.0


@dataclass
class Services:
    """The running services of a tiny project."""

    root: Path
    stack: stacks.Stack
    api: AirflowApi
    links_while_running: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Stage -> its links, as the API gave them while the stage was still running."""

    def wait(self, runs: Mapping[str, str]) -> None:
        """Wait until every run (run id -> DAG id) has ended, noting the links of tasks that still run."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        waiting = dict(runs)
        while waiting:
            assert time.monotonic() < deadline, f"still running: {waiting}"
            time.sleep(3)
            for run_id, dag_id in list(waiting.items()):
                if self.api.run(dag_id, run_id)["state"] in ("success", "failed"):
                    del waiting[run_id]
                else:
                    self._note_links(dag_id, run_id)

    def _note_links(self, dag_id: str, run_id: str) -> None:
        for instance in self.api.task_instances(dag_id, run_id):
            key = f"{run_id}/{instance['task_id']}"
            if instance["state"] == "running" and not all(
                self.links_while_running.get(key, {"": None}).values()
            ):
                links = self.api.links(instance)
                if links:
                    self.links_while_running[key] = links

    def wait_for_state(self, run_id: str, task_id: str, state: str) -> None:
        """Wait until a task of a deepseek_r1 run is in `state`; fail when the run ends before."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while self.instances(run_id).get(task_id, {}).get("state") != state:
            assert self.api.run("deepseek_r1", run_id)["state"] not in ("success", "failed")
            assert time.monotonic() < deadline
            time.sleep(1.5)

    def instances(self, run_id: str, dag_id: str = "deepseek_r1") -> dict[str, dict[str, Any]]:
        """Task instances of a run by stage address (`distill@tiny-a`)."""
        found = {}
        for instance in self.api.task_instances(dag_id, run_id):
            item = instance["rendered_map_index"]
            found[f"{instance['task_id']}@{item}" if item else instance["task_id"]] = instance
        return found

    def worktree(self, run_id: str, dag_id: str = "deepseek_r1") -> Path:
        """The checkout of a run."""
        return worktree_path(self.root, run_name(dag_id, run_id))


AWS_SECRET = "looks-like-a-secret-8f2c41"  # pragma: allowlist secret (the test's own)
"""The password of the connection `aws_default`: one careless stage prints it."""


@pytest.fixture(scope="session")
def tiny_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Airflow, MLflow and the file server over a new tiny project; stopped at the end, nothing left behind."""
    root = build(tmp_path_factory.mktemp("tiny") / "project")
    connection = {"conn_type": "aws", "login": "a-key", "password": AWS_SECRET}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        stack = stacks.up(root)
    try:
        api = AirflowApi(stack.airflow)
        deadline = time.monotonic() + 180
        while not all(api.has_dag(dag) for dag in ("deepseek_r1", "distill", "evaluate")):
            assert not api.import_errors(), api.import_errors()
            assert time.monotonic() < deadline, "the DAGs were not read"
            time.sleep(2)
        yield Services(root, stack, api)
    finally:
        stacks.down(root)


FORMS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "students": {"students": ["tiny-b", "tiny-a"], "seed": 11, "r1_zero_steps": 50},
    "gate": {"overrides": {"validate_problems.min_rows": 50}},
    "crash": {"seed": 12, "overrides": {"train_r1_zero.warmup_steps": 99}},
    "typo": {"overrides": {"train_r1_zero.stepz": 3}},
    "hostile": {"overrides": {"distill.students": ["a;touch /tmp/pwned"]}},
    "owned": {"overrides": {"engine.servers.weights_dir": "/tmp/owned"}},
    "somebodys": {"overrides": {"engine.kubernetes.secret": "somebodys"}},  # pragma: allowlist secret
}
"""Run id -> the form it is triggered with."""


@pytest.fixture(scope="session")
def finished(tiny_services: Services) -> Services:
    """The services after all runs of FORMS, triggered together, have ended."""
    for run_id, form in FORMS.items():
        tiny_services.api.trigger("deepseek_r1", form, run_id)
    tiny_services.wait(dict.fromkeys(FORMS, "deepseek_r1"))
    return tiny_services
