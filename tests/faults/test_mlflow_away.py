"""MLflow's server dies under a training stage and stays away: buffered, then delivered, each step once (long version)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline_lib.tracking.journal import journals
from pipeline_lib.tracking.locations import EXPERIMENT, journal_dir
from tests.integration.test_mlflow_runs import settle, start_stage, wait_for

AWAY_SECONDS = float(os.environ.get("R1_AWAY_SECONDS", "0"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AWAY_SECONDS, reason="long: set R1_AWAY_SECONDS, as make test-faults does"),
]


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
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_server_that_is_away_during_training_gets_every_step_once(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    (tmp_path / "data.txt").write_text("x")
    steps = int(AWAY_SECONDS * 2 + 60)
    server = _serve(tmp_path, port)
    try:
        stage = start_stage(
            tmp_path,
            f"for step in range({steps}):\n    run.log_metrics({{'accuracy': step / {steps}}}, step)\n    time.sleep(0.5)",
            MLFLOW_TRACKING_URI=uri,
        )
        deadline = time.monotonic() + 120
        while not any(journal.cursor().status == "RUNNING" for journal in journals(journal_dir(tmp_path))):
            assert time.monotonic() < deadline, "the run never reached the server"
            time.sleep(0.2)
        _kill(server)
        time.sleep(AWAY_SECONDS)
        assert stage.poll() is None, "training goes on without the server"
        server = _serve(tmp_path, port)
        assert stage.communicate(timeout=600) is not None
        assert stage.returncode == 0
        settle(tmp_path)
        from pipeline_lib.tracking.client import open_client

        client = open_client(uri, tmp_path)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'train_r1_zero'")
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "accuracy")
        assert sorted(metric.step for metric in history) == list(range(steps))
        print(f"MLflow away for {AWAY_SECONDS:.0f} s: {steps} steps, each delivered once")
    finally:
        _kill(server)
