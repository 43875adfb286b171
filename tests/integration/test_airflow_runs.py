"""Runs of the DAGs by the real scheduler: fan-out, failures, isolation, links, restoring from cache.

What it does not cover: the real stages (a micro end-to-end run does), several machines, GPUs.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from pipeline_lib.services import settings
from pipeline_lib.services.airflow_api import AirflowRefused
from pipeline_lib.services.results import results_table
from tests.integration.conftest import AWS_SECRET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_default_run_succeeds_and_has_one_task_per_stage(finished):
    instances = finished.instances("default")
    assert {i["state"] for i in instances.values()} == {"success"}
    assert {"create_run", "train_r1_zero", "distill@qwen-xs", "evaluate@r1", "finish_run"} <= set(instances)
    assert results_table(finished.worktree("default") / "reports/results.json").row_count == 4


def test_students_of_the_form_fan_out_and_carry_their_names(finished):
    instances = finished.instances("students")
    assert {i["state"] for i in instances.values()} == {"success"}
    assert {name for name in instances if name.startswith("distill")} == {"distill@tiny-a", "distill@tiny-b"}
    assert {"evaluate@tiny-a", "evaluate@tiny-b", "evaluate@base"} <= set(instances)
    assert "evaluate@qwen-xs" not in instances


def test_a_failed_gate_is_not_retried_and_says_why(finished):
    gate = finished.instances("gate")["validate_problems"]
    assert (gate["state"], gate["try_number"]) == ("failed", 1)
    assert finished.api.xcom(gate, "error") == (
        "validate_problems: expect_table_row_count_to_be_between(min=50) failed: 10 rows"
    )
    assert finished.instances("gate")["train_r1_zero"]["state"] == "upstream_failed"


def test_a_crash_is_retried(finished):
    crashed = finished.instances("crash")["train_r1_zero"]
    assert (crashed["state"], crashed["try_number"]) == ("success", 2)


OWNED = "engine.servers.weights_dir = '/tmp/owned': is neither in the run's worktree nor in a directory that parameters may name here; "
SOMEBODYS = "engine.kubernetes.secret = 'somebodys': is the profile's to say and no form's; "  # pragma: allowlist secret
REFUSED = {
    "typo": "train_r1_zero.stepz",
    "hostile": "a;touch",
    "owned": OWNED + "whoever runs this worker lists it in R1_ALLOWED_DIRS",
    "somebodys": SOMEBODYS + "write it into a file of profiles/ and commit that",
}
"""Run of the forms -> words of its refusal."""


@pytest.mark.parametrize(("run", "words"), REFUSED.items())
def test_bad_parameters_stop_the_run_at_once_and_leave_nothing(finished, run, words):
    create = finished.instances(run)["create_run"]
    assert (create["state"], create["try_number"]) == ("failed", 1)
    error = finished.api.xcom(create, "error")
    assert words in error
    assert len(error.splitlines()) == 1
    assert not finished.worktree(run).exists()
    assert not _git(finished.root, "branch", "--list", f"run/{run}")
    assert not Path("/tmp/owned").exists()


def test_stages_that_airflow_starts_are_held_to_their_worktree(finished):
    """Nobody has set `R1_ALLOWED_DIRS` here: one stage says what it was told."""
    assert "R1_ALLOWED_DIRS" not in os.environ
    said = {
        run: (finished.worktree(run) / ".run" / "log" / "prepare_problems.log")
        .read_text(encoding="utf-8")
        .splitlines()
        for run in ("default", "gate", "students")
    }
    # `default` and `gate` go side by side and ask for the same problems: one computes them, or both.
    computed = {run for run, lines in said.items() if "Running stage 'prepare_problems':" in lines}
    assert "students" in computed
    assert computed & {"default", "gate"}
    for run in computed:
        assert f"R1_ALLOWED_DIRS={finished.worktree(run)}" in said[run]


@pytest.mark.parametrize(
    "form", [{"seed": "x"}, {"students": ["a;b"]}, {"profile": "none"}, {"group_size": 1}]
)
def test_a_wrong_type_is_refused_before_a_run_exists(finished, form):
    with pytest.raises(AirflowRefused) as refusal:
        finished.api.trigger("deepseek_r1", form)
    assert refusal.value.exit_code == 2


def test_concurrent_runs_do_not_meet(finished):
    runs = {run: finished.api.run("deepseek_r1", run) for run in ("default", "students", "crash")}
    assert max(r["start_date"] for r in runs.values()) < min(r["end_date"] for r in runs.values())
    seeds = {}
    for run in runs:
        tree = finished.worktree(run)
        params = yaml.safe_load((tree / "params.yaml").read_text())
        seeds[run] = params["run"]["seed"]
        assert json.loads((tree / "models/r1/model.json").read_text())["seed"] == seeds[run]
        assert json.loads((tree / "data/problems/train.json").read_text())["seed"] == seeds[run]
    assert len(set(seeds.values())) == 3


def test_a_run_ends_as_a_commit_of_parameters_and_hashes(finished):
    changed = _git(finished.root, "diff", "--name-only", "main", "run/students")
    assert changed.splitlines() == ["dvc.lock", "params.yaml"]
    assert _git(finished.root, "diff", "--name-only", "main", "run/default") == "dvc.lock"
    assert _git(finished.root, "rev-list", "--count", "main..run/students") == "1"


def test_the_links_are_there_before_the_wait_and_lead_to_the_run(finished):
    early = finished.links_while_running["students/train_r1_zero"]
    assert "searchFilter" in early["MLflow run"]
    assert "tags.pipeline_run" in early["MLflow run"]
    with urllib.request.urlopen(early["Data Docs"], timeout=10) as page:
        assert b"Not there yet" in page.read()
    late = finished.api.links(finished.instances("students")["train_r1_zero"])["MLflow run"]
    mlflow_run = late.rpartition("/")[2]
    with urllib.request.urlopen(
        f"{finished.stack.mlflow}/api/2.0/mlflow/runs/get?run_id={mlflow_run}"
    ) as answer:
        tags = {tag["key"]: tag["value"] for tag in json.load(answer)["run"]["data"]["tags"]}
    assert (tags["stage"], tags["pipeline_run"]) == ("train_r1_zero", "students")


@pytest.mark.parametrize(("host", "answers"), [("localhost", True), ("evil.example:8080", False)])
def test_services_answer_to_their_own_names_only(finished, host, answers):
    """DNS rebinding: a page of evil.example whose name points here reaches nothing. The demo stack has no log-in."""
    stack = finished.stack
    pages = {
        stack.airflow: "/api/v2/version",
        stack.files: "/health",
        stack.mlflow: "/api/2.0/mlflow/experiments/search?max_results=1",
    }
    for address, page in pages.items():
        port = urlsplit(address).port
        name = host if ":" in host else f"{host}:{port}"
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as line:
            line.request("GET", page, headers={"Host": name})
            assert line.getresponse().status in ((200,) if answers else (400, 403, 421)), address


def test_a_pool_that_does_not_count_deferred_stages_is_mended_and_keeps_its_size(finished):
    """As the pools are that somebody made by hand, or an older version."""

    def pool() -> tuple[int, bool, str]:
        found = finished.api.get("/pools/gpu")
        return found["slots"], found["include_deferred"], found["description"]

    slots, counted, description = pool()
    assert (slots, counted) == (settings.GPU_SLOTS, True)
    body = {"name": "gpu", "slots": 3, "description": description, "include_deferred": False}
    path = "/pools/gpu?update_mask=slots&update_mask=include_deferred"
    finished.api.call("PATCH", path, body)
    try:
        assert pool() == (3, False, description)
        for _ in range(2):  # the second call has nothing to mend
            finished.api.ensure_pool("gpu", 1, "another text")
            assert pool() == (3, True, description)
    finally:
        finished.api.call("PATCH", path, {**body, "slots": slots, "include_deferred": True})


def test_main_checkout_restores_what_a_default_run_computed(finished):
    before = _git(finished.root, "status", "--porcelain")
    assert before == ""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SHELL": "/bin/sh"}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=finished.root,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is cached - skipping run" in done.stdout
    assert "Running stage" not in done.stdout


def test_the_secret_of_the_connection_reaches_the_stage_and_no_file_or_command_line(finished):
    """`aws_default` is handed to stages as AWS_*; one of them prints the secret, as a library's traceback might."""
    log = finished.worktree("students") / ".run" / "log" / "prepare_problems.log"
    assert "my secret is ***" in log.read_text(encoding="utf-8")
    secret = AWS_SECRET.encode()
    below = [Path(folder, name) for folder, _, names in os.walk(finished.root) for name in names]
    read = [file for file in below if file.is_file() and not file.is_symlink()]
    assert any(file.is_relative_to(finished.root / ".run" / "airflow") for file in read)
    assert [file for file in read if secret in _bytes(file)] == []
    commands = [file for file in Path("/proc").glob("[0-9]*/cmdline") if secret in _bytes(file)]
    assert commands == []


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # removed by a service, or of a process that has ended
        return b""


def test_distill_dag_computes_only_the_fan_out(finished):
    form = {"from_run": "run/default", "teacher": "r1", "students": ["tiny-a"]}
    finished.api.trigger("distill", form, "again")
    finished.wait({"again": "distill"})
    instances = finished.instances("again", "distill")
    assert {i["state"] for i in instances.values()} == {"success"}
    assert "train_r1_zero" not in instances
    assert {"distill@tiny-a", "evaluate@r1", "evaluate@tiny-a"} <= set(instances)
    how = {name: finished.api.xcom(i, "return_value") for name, i in instances.items()}
    assert how["distill@tiny-a"] == "computed"
    assert how["evaluate@r1"] in ("restored from cache", "unchanged")
    # The runs went side by side and may each have computed the same bytes; the link leads to one of those that did.
    others = [finished.instances(run).get("evaluate@r1") for run in ("default", "students", "crash")]
    computed = {finished.api.links(i)["MLflow run"] for i in others if i and i["state"] == "success"}
    assert finished.api.links(instances["evaluate@r1"])["MLflow run"] in computed


def test_evaluate_dag_scores_a_registered_model(finished):
    _mlflow(finished, "registered-models/create", {"name": "tiny-r1"})
    tags = [{"key": "pipeline_run", "value": "students"}, {"key": "model", "value": "r1"}]
    version = {"name": "tiny-r1", "source": "dvc://models/r1/0", "tags": tags}
    _mlflow(finished, "model-versions/create", version)
    _mlflow(finished, "registered-models/alias", {"name": "tiny-r1", "alias": "champion", "version": "1"})
    form = {"models": ["models:/tiny-r1@champion"], "suites": ["micro_general"]}
    finished.api.trigger("evaluate", form, "score")
    finished.wait({"score": "evaluate"})
    instances = finished.instances("score", "evaluate")
    assert {i["state"] for i in instances.values()} == {"success"}
    assert {name for name in instances if name.startswith("evaluate@")} == {"evaluate@r1"}
    tree = finished.worktree("score", "evaluate")
    assert list(json.loads((tree / "reports/evaluation/r1.json").read_text())) == ["micro_general"]
    assert json.loads((tree / "models/r1/model.json").read_text())["seed"] == 11


def _mlflow(services, path: str, body: dict) -> None:
    request = urllib.request.Request(
        f"{services.stack.mlflow}/api/2.0/mlflow/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=60).close()


def test_a_rejected_promotion_registers_nothing_and_still_ends_the_run(finished):
    finished.api.trigger("deepseek_r1", {"require_approval": True}, "rejected")
    path = "/dags/deepseek_r1/dagRuns/rejected/taskInstances/approve_promotion/-1/hitlDetails"
    finished.wait_for_state("rejected", "approve_promotion", "awaiting_input")
    assert finished.instances("rejected")["register_models"]["state"] is None
    # Airflow 3.3.2 fails a task that is answered before its scheduler has heard that the waiting part ended ("reported ... finished with
    # state success, but the task instance's state attribute is queued"): a second or two later, on a busy machine six. People are slower.
    log = finished.root / ".run" / "logs" / "airflow-scheduler.log"
    heard = re.compile(
        r"Received executor event with state success .*task_id='approve_promotion', run_id='rejected'"
    )
    deadline = time.monotonic() + 120
    while not heard.search(log.read_text(encoding="utf-8", errors="replace")):
        assert time.monotonic() < deadline, "the scheduler did not hear of it"
        time.sleep(0.5)
    finished.api.call("PATCH", path, {"chosen_options": ["Reject"], "params_input": {}})
    finished.wait({"rejected": "deepseek_r1"})
    states = {name: instance["state"] for name, instance in finished.instances("rejected").items()}
    assert states.pop("register_models") == "skipped"
    assert set(states.values()) == {"success"}
    restored = finished.api.xcom(finished.instances("rejected")["train_r1_zero"], "return_value")
    assert restored == "restored from cache"


def test_a_finished_run_that_is_cleared_ends_as_the_same_commit_and_computes_nothing(finished):
    """Nothing is computed, so no model is registered a second time."""
    commit = _git(finished.root, "rev-parse", "run/default")
    locked = (finished.worktree("default") / "dvc.lock").read_bytes()
    finished.api.call("POST", "/dags/deepseek_r1/dagRuns/default/clear", {"dry_run": False})
    finished.wait({"default": "deepseek_r1"})
    instances = finished.instances("default")
    assert {i["state"] for i in instances.values()} == {"success"}
    assert {i["try_number"] for i in instances.values()} == {2}
    how = {name: finished.api.xcom(i, "return_value") for name, i in instances.items()}
    assert how["register_models"] == "unchanged"
    assert "computed" not in how.values()
    assert how["finish_run"] == commit == _git(finished.root, "rev-parse", "run/default")
    assert (finished.worktree("default") / "dvc.lock").read_bytes() == locked
