"""MLflow's server dies under a stage that trains and stays away: buffered, then delivered, each step once.

`R1_AWAY_SECONDS` says how long (10 in `make test`, two minutes with `make test-faults`).
"""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline_lib.tracking.journal import Journal, journals
from pipeline_lib.tracking.locations import EXPERIMENT, journal_dir
from tests.integration.test_mlflow_runs import SOURCE, settle, start_stage, wait_for
from tests.unit.training.tiny import build_world, grpo_spec

AWAY_SECONDS = float(os.environ.get("R1_AWAY_SECONDS", "10"))
STEP_SECONDS = 0.2
PACE = f"""
import sys, time
if "pipeline_lib.training.job" in sys.orig_argv:
    from pipeline_lib.training.progress import Progress
    before = Progress.step
    def slow(self, done, row):
        time.sleep({STEP_SECONDS})
        before(self, done, row)
    Progress.step = slow
"""
"""A `sitecustomize`: steps of a tiny model take milliseconds, and the job would be over before the server is back."""
TRAIN = """
from pipeline_lib.launch import run_job
from pipeline_lib.training.spec import JobSpec
run_job(JobSpec.from_json(Path("spec.json").read_text()))
"""

pytestmark = pytest.mark.slow


def _serve(root: Path, port: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{root}/server.db", "--default-artifact-root", str(root / "a"),
    ]  # fmt: skip
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(port)
    except TimeoutError:
        _kill(server)
        raise
    return server


def _kill(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _metrics_in(journal: Path) -> int:
    return sum(event.kind == "metrics" for event in Journal(journal).events())


def test_a_server_that_is_away_during_training_gets_every_step_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    steps = int((AWAY_SECONDS + 10) / STEP_SECONDS)
    spec = grpo_spec(steps=steps, checkpoint_every=50)
    build_world(tmp_path)
    (tmp_path / "data.txt").write_text("x")
    (tmp_path / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    (tmp_path / "pace").mkdir()
    (tmp_path / "pace/sitecustomize.py").write_text(PACE, encoding="utf-8")
    server = _serve(tmp_path, port)
    environment = {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": f"{tmp_path / 'pace'}:{SOURCE}"}
    stage = start_stage(tmp_path, TRAIN, **environment)
    try:
        deadline = time.monotonic() + 120
        while not (journal := _training(tmp_path)):
            assert stage.poll() is None, stage.communicate()[1]
            assert time.monotonic() < deadline, "no step reached the server"
            time.sleep(0.2)
        _kill(server)
        before = _metrics_in(journal)
        time.sleep(AWAY_SECONDS)
        assert stage.poll() is None, "training goes on without the server"
        assert _metrics_in(journal) > before + AWAY_SECONDS, (
            "and keeps its numbers: more than one step a second"
        )
        server = _serve(tmp_path, port)
        errors = stage.communicate(timeout=600)[1]
        assert stage.returncode == 0, errors
        settle(tmp_path)
        from pipeline_lib.tracking.client import open_client

        client = open_client(uri, tmp_path)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train_r1_zero'")
        assert run.info.status == "FINISHED"
        with (tmp_path / "plot.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == steps
        for name in ("reward", "loss"):
            history = client.get_metric_history(run.info.run_id, name)
            assert sorted(metric.step for metric in history) == list(range(steps))
            written = [float(row[name]) for row in rows]
            assert [
                metric.value for metric in sorted(history, key=lambda metric: metric.step)
            ] == pytest.approx(written, rel=1e-4)
        print(f"MLflow away for {AWAY_SECONDS:.0f} s: {steps} steps, each delivered once")
    finally:
        if stage.poll() is None:
            stage.terminate()  # it passes SIGTERM on to its job
            stage.wait(timeout=60)
        _kill(server)


def _training(root: Path) -> Path | None:
    """The journal of the stage's run, once MLflow has the run and the job has trained a step."""
    for journal in journals(journal_dir(root)):
        if journal.cursor().status == "RUNNING" and _metrics_in(journal.path):
            return journal.path
    return None
