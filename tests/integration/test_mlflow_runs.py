"""Stages against a real MLflow store: resumed, killed, concurrent, restored, and with the server away.

The stages are processes of their own, as under DVC. Not covered here: a job on another machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline_lib.tracking.deliver import Delivery
from pipeline_lib.tracking.find import find_run, link_restored
from pipeline_lib.tracking.journal import Cursor, Journal, journals
from pipeline_lib.tracking.locations import EXPERIMENT, journal_dir

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def worktree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipper stays a while between stages."""
    return make_worktree(tmp_path_factory.mktemp("main"))


def make_worktree(root: Path) -> Path:
    """A git repository with a dvc.yaml and a store of its own."""
    (root / "params.yaml").write_text("run: {profile: micro}\n")
    (root / "data.txt").write_text("problems\n")
    (root / "dvc.yaml").write_text(
        "stages:\n  train_r1_zero: {cmd: x, deps: [data.txt], outs: [model.txt]}\n"
        "  distill: {matrix: {student: [a, b]}, cmd: x, outs: ['models/${item.student}']}\n"
    )
    for command in (
        ["init", "-q"],
        ["config", "user.email", "someone@example.org"],
        ["config", "user.name", "someone"],
        ["add", "-A"],
        ["commit", "-qm", "first"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def start_stage(root: Path, body: str, name: str = "train_r1_zero", **env: str) -> subprocess.Popen[str]:
    """Start a process that runs `body` inside `stage_run(name)`; `run` is the StageRun."""
    stage, _, item = name.partition("@")
    code = "\n".join(
        (
            "import os, sys, time, signal",
            "from pathlib import Path",
            "from pipeline_lib.tracking import stage_run, attach_run",
            f"with stage_run({stage!r}, {item or None!r}, params={{'steps': 10, 'rewards': {{'format': 0.1}}}},"
            " inputs=[Path('data.txt')]) as run:",
            textwrap.indent(textwrap.dedent(body), "    "),
        )
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("R1_", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        env={**clean, "PYTHONPATH": str(SOURCE), "R1_MLFLOW_LINGER": "3", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run_stage(root: Path, body: str, name: str = "train_r1_zero", **env: str) -> tuple[int, str]:
    """Run a stage to its end; return the exit code and stderr."""
    process = start_stage(root, body, name, **env)
    _, errors = process.communicate(timeout=240)
    return process.returncode, errors


def settle(root: Path) -> None:
    """Wait until this worktree's shipper has gone."""
    with (journal_dir(root) / "shipper.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def open_store(root: Path) -> MlflowClient:
    from pipeline_lib.tracking.client import open_client

    return open_client(f"sqlite:///{root}/.mlflow/mlflow.db", root)


def runs_of(root: Path, condition: str) -> list[Run]:
    client = open_store(root)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], condition, order_by=["attributes.start_time ASC"])
    )


def test_a_stage_is_a_child_of_its_pipeline_run_with_all_that_belongs_to_it(
    worktree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, errors = run_stage(
        worktree,
        """
        for step in range(3):
            run.log_metrics({"accuracy": step / 10}, step)
        run.log_metrics({"final": 0.5})
        run.log_dataset("hard problems", "data.txt", "training")
        run.log_table("rollouts", ["prompt", "text"], [["1+1", "中"]])
        run.set_tags({"note": "x"})
        Path("model.txt").write_text("weights")
        """,
        R1_PIPELINE_RUN="manual__1",
    )
    assert code == 0, errors
    settle(worktree)
    (child,) = runs_of(worktree, "tags.stage = 'train_r1_zero' and tags.pipeline_run = 'manual__1'")
    (parent,) = runs_of(worktree, "tags.kind = 'pipeline' and tags.pipeline_run = 'manual__1'")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.run_name, child.info.status, parent.info.status) == (
        "train_r1_zero",
        "FINISHED",
        "FINISHED",
    )
    assert child.data.params == {"steps": "10", "rewards.format": "0.1"}
    assert child.data.metrics["accuracy"] == 0.2
    assert child.data.metrics["final"] == 0.5
    assert {tag: child.data.tags[tag] for tag in ("profile", "note", "stage")} == {
        "profile": "micro",
        "note": "x",
        "stage": "train_r1_zero",
    }
    assert len(child.data.tags["git_commit"]) >= 40
    digests = {entry.dataset.name: entry.dataset.digest for entry in child.inputs.dataset_inputs}
    problems = hashlib.md5(b"problems\n", usedforsecurity=False).hexdigest()
    assert digests == {"data.txt": problems, "hard problems": problems}
    client = open_store(worktree)
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["rollouts.json"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{worktree}/.mlflow/mlflow.db")
    table = client.load_table(child.info.experiment_id, "rollouts.json", run_ids=[child.info.run_id])
    assert list(table["text"]) == ["中"]
    link = find_run("train_r1_zero", child.data.tags["output_hash"], root=worktree)
    assert link is not None
    assert link.run_id == child.info.run_id


def test_a_killed_stage_is_reported_and_its_retry_continues_the_same_run(worktree: Path) -> None:
    process = start_stage(
        worktree,
        """
        for step in range(6):
            run.log_metrics({"accuracy": step / 10}, step)
        print(run.run_id, flush=True)
        time.sleep(300)
        """,
        R1_PIPELINE_RUN="manual__2",
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    settle(worktree)
    (killed,) = runs_of(worktree, "tags.stage = 'train_r1_zero' and tags.pipeline_run = 'manual__2'")
    assert (killed.info.run_id, killed.info.status) == (run_id, "KILLED")
    code, errors = run_stage(
        worktree,
        """
        for step in range(4, 10):
            run.log_metrics({"accuracy": step / 10}, step)
        """,
        R1_PIPELINE_RUN="manual__2",
    )
    assert code == 0, errors
    settle(worktree)
    (run,) = runs_of(worktree, "tags.stage = 'train_r1_zero' and tags.pipeline_run = 'manual__2'")
    assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
    history = open_store(worktree).get_metric_history(run_id, "accuracy")
    assert sorted(metric.step for metric in history) == list(range(10))


def test_a_lost_journal_does_not_double_the_steps(worktree: Path) -> None:
    """As when a retry lands on another machine: the run is found in MLflow by its identity.

    The other machine is stopped, too, before it is as far as the first one was, and starts a second time.
    """
    body = "for step in range({}, {}): run.log_metrics({{'accuracy': 0.1}}, step)\n{}"
    code, _ = run_stage(worktree, body.format(0, 5, "raise SystemExit(75)"), R1_PIPELINE_RUN="manual__3")
    assert code == 75
    settle(worktree)
    (journal,) = [j for j in journals(journal_dir(worktree)) if j.cursor().status == "FAILED"]
    journal.remove()
    code, _ = run_stage(worktree, body.format(2, 4, "raise SystemExit(75)"), R1_PIPELINE_RUN="manual__3")
    assert code == 75
    settle(worktree)
    assert run_stage(worktree, body.format(3, 8, ""), R1_PIPELINE_RUN="manual__3")[0] == 0
    settle(worktree)
    (run,) = runs_of(worktree, "tags.stage = 'train_r1_zero' and tags.pipeline_run = 'manual__3'")
    history = open_store(worktree).get_metric_history(run.info.run_id, "accuracy")
    assert sorted(metric.step for metric in history) == list(range(8))


@pytest.mark.parametrize("adopted", [True, False])
def test_a_shipper_that_starts_anew_asks_an_adopted_run_what_it_has(tmp_path: Path, adopted: bool) -> None:
    """A run of its journal's own holds nothing that the cursor does not know of, and is not asked."""
    root = make_worktree(tmp_path)
    client = open_store(root)
    run = client.create_run(client.create_experiment("e"))
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    for step in range(3):
        client.log_metric(run_id, "accuracy", 0.1, step=step)
    journal = Journal(tmp_path / "train_r1_zero.journal")
    for step in range(1, 5):
        journal.append_metrics({"accuracy": 0.1}, step)
    journal.write_cursor(
        Cursor(run_id=run_id, experiment_id=experiment_id, status="RUNNING", adopted=adopted)
    )
    Delivery(journal, root).deliver(client)
    steps = sorted(metric.step for metric in client.get_metric_history(run_id, "accuracy"))
    assert steps == ([0, 1, 2, 3, 4] if adopted else [0, 1, 1, 2, 2, 3, 4])


def test_a_job_process_logs_into_its_stages_run(worktree: Path) -> None:
    code, errors = run_stage(
        worktree,
        """
        import subprocess
        job = "from pipeline_lib.tracking import attach_run; attach_run().log_metrics({'loss': 1.5}, 3)"
        subprocess.run([sys.executable, "-c", job], check=True)
        """,
        R1_PIPELINE_RUN="manual__4",
    )
    assert code == 0, errors
    settle(worktree)
    (run,) = runs_of(worktree, "tags.stage = 'train_r1_zero' and tags.pipeline_run = 'manual__4'")
    assert run.data.metrics["loss"] == 1.5


def test_worktrees_at_once_share_the_store_and_keep_apart(worktree: Path) -> None:
    other = worktree.parent / "other"
    subprocess.run(["git", "worktree", "add", "-q", str(other)], cwd=worktree, check=True)
    body = """
        for step in range(50):
            run.log_metrics({{'accuracy': 0.1}}, step)
        Path('models').mkdir(exist_ok=True)
        Path('models/{}').write_text('{}')
    """
    processes = [
        start_stage(
            root, body.format(item, root.name), f"distill@{item}", R1_PIPELINE_RUN=f"manual__{root.name}"
        )
        for root in (worktree, other)
        for item in ("a", "b")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    for root in (worktree, other):
        settle(root)
        children = runs_of(worktree, f"tags.stage = 'distill' and tags.pipeline_run = 'manual__{root.name}'")
        assert sorted(child.info.run_name for child in children) == ["distill@a", "distill@b"]
        assert {child.info.status for child in children} == {"FINISHED"}
        assert (
            len(runs_of(worktree, f"tags.kind = 'pipeline' and tags.pipeline_run = 'manual__{root.name}'"))
            == 1
        )
    for child in children:
        history = open_store(worktree).get_metric_history(child.info.run_id, "accuracy")
        assert sorted(metric.step for metric in history) == list(range(50))


def test_a_restored_stage_links_to_the_run_that_computed_it(worktree: Path) -> None:
    """The lock a cache hit leaves behind, in a worktree that never ran the stage."""
    content = hashlib.md5(b"weights", usedforsecurity=False).hexdigest()
    clean = worktree.parent / "clean"
    subprocess.run(["git", "worktree", "add", "-q", str(clean)], cwd=worktree, check=True)
    (clean / "dvc.lock").write_text(
        f"schema: '2.0'\nstages:\n  train_r1_zero:\n    cmd: x\n    outs:\n    - {{path: model.txt, md5: {content}}}\n"
    )
    link = link_restored("train_r1_zero", root=clean)
    assert link is not None
    run = open_store(worktree).get_run(link.run_id)
    assert run.data.tags["stage"] == "train_r1_zero"
    assert (journal_dir(clean) / "train_r1_zero.json").is_file()


def test_a_server_that_is_away_costs_a_warning_and_gets_everything_later(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    (tmp_path / "data.txt").write_text("x")
    body = "for step in range(5): run.log_metrics({'accuracy': 0.1}, step)"
    started = time.monotonic()
    code, errors = run_stage(tmp_path, body, MLFLOW_TRACKING_URI=uri)
    assert code == 0
    assert "Nothing is lost" in errors
    assert time.monotonic() - started < 60
    assert len(journals(journal_dir(tmp_path))) == 1
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--default-artifact-root", str(tmp_path / "a")],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(port)
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "R1_MLFLOW_LINGER": "1"}
        settle(tmp_path)
        ship = [sys.executable, "-m", "pipeline_lib.tracking.ship"]
        subprocess.run(ship, cwd=tmp_path, env=environment, check=True, timeout=120)
        from pipeline_lib.tracking.client import open_client

        client = open_client(uri, tmp_path)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train_r1_zero'")
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "accuracy")) == 5
        assert journals(journal_dir(tmp_path)) == []
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(port: int) -> None:
    """Wait until something listens on the port."""
    for _ in range(600):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")
