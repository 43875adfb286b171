"""Starting and stopping, without the services themselves (the integration tests start those)."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline_lib.orchestration.processes import SERVICES_MARK
from pipeline_lib.services import settings, stack
from pipeline_lib.services.__main__ import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/server.env").write_text("# why\nMLFLOW_SERVER_ENABLE_JOB_EXECUTION=false\n")
    (tmp_path / ".run").mkdir()
    return tmp_path


PORTS = {"airflow": 1, "mlflow": 2, "files": 3}


def test_everything_listens_on_loopback_and_secrets_are_private(root):
    env = settings.environment(root, PORTS)
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert env["AIRFLOW__API_AUTH__JWT_SECRET"] != env["AIRFLOW__API__SECRET_KEY"]
    for secret in (root / ".run/airflow").glob("*.secret"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert settings.environment(root, PORTS)["AIRFLOW__API__SECRET_KEY"] == env["AIRFLOW__API__SECRET_KEY"]
    commands = {
        service.name: service.command
        for service in settings.services(root, PORTS, defer=settings.deferrable())
    }
    assert "--skip-serve-logs" in commands["airflow-scheduler"]
    assert commands["mlflow"][commands["mlflow"].index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize(("asked", "there"), [(None, False), ("False", False), ("True", True)])
def test_a_triggerer_is_there_where_stages_defer(root, monkeypatch, asked, there):
    monkeypatch.delenv(settings.DEFERRABLE, raising=False)
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "99")  # nothing else of Airflow's is taken over
    if asked:
        monkeypatch.setenv(settings.DEFERRABLE, asked)
    env = settings.environment(root, PORTS)
    assert env[settings.DEFERRABLE] == str(there)
    assert env["AIRFLOW__CORE__PARALLELISM"] != "99"
    commands = {
        service.name: service.command
        for service in settings.services(root, PORTS, defer=settings.deferrable())
    }
    assert ("airflow-triggerer" in commands) is there
    assert "--skip-serve-logs" in commands.get("airflow-triggerer", ("--skip-serve-logs",))


@pytest.mark.parametrize(("name", "told"), [("files", False), ("airflow-api", True)])
def test_only_airflow_is_told_airflows_settings(root, name, told):
    env = {"PATH": os.environ["PATH"], "AIRFLOW__API__SECRET_KEY": "x", "BOTH": "shared"}
    service = settings.Service(name, ("env",), None, {"BOTH": "its own"})
    started = stack._start(root, service, env)
    while stack.born(started.pid) == started.born:
        time.sleep(0.01)
    output = stack.log_path(root, name).read_text()
    assert ("AIRFLOW__API__SECRET_KEY=x" in output) is told
    assert "BOTH=its own" in output


def test_a_taken_port_is_replaced():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert stack._free_port(port) not in (0, port)


def test_two_checkouts_that_start_at_once_get_ports_of_their_own(tmp_path, monkeypatch):
    """A service listens some seconds after its port was chosen; the other checkout must not find it free until then."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        preferred = probe.getsockname()[1]
    listening, waiting = [], threading.Event()
    notice = "another checkout is starting its services: waiting until it has its ports"

    def start_all(root, kind, started, say):
        port = stack._free_port(preferred)
        assert waiting.wait(30), "the other checkout did not wait"
        service = socket.socket()
        listening.append(service)
        service.bind(("127.0.0.1", port))
        service.listen()
        ports = dict.fromkeys(PORTS, port)
        return stack.Stack(kind, ports, (), stack.boot_id())

    def say(line):
        if line == notice:
            waiting.set()

    monkeypatch.setattr(stack, "_start_all", start_all)
    for name in ("one", "other"):
        (tmp_path / name / ".run").mkdir(parents=True)
    try:
        with ThreadPoolExecutor(2) as pool:
            stacks = list(pool.map(lambda name: stack.up(tmp_path / name, say), ("one", "other")))
    finally:
        for service in listening:
            service.close()
    assert len({found.ports["mlflow"] for found in stacks}) == 2


def test_down_stops_also_what_left_its_session(root):
    env = {**os.environ, SERVICES_MARK: str(root)}
    inner = f"import subprocess, sys, time; print(subprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(600)'], start_new_session=True).pid, flush=True); time.sleep(600)"
    leader = subprocess.Popen(
        [sys.executable, "-c", inner], env=env, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert leader.stdout is not None
    with leader.stdout:
        _wait_until_it_runs(int(leader.stdout.readline()))
    said: list[str] = []
    stack.down(root, say=said.append)
    assert leader.wait(timeout=5) != 0
    assert said == ["stopped"]
    stack.down(root, say=said.append)
    assert said[-1] == "nothing is running"


def _wait_until_it_runs(pid: int) -> None:
    """Popen returns in the middle of the exec: the new program's arguments and environment are in place a moment later."""
    deadline = time.monotonic() + 60
    while not Path(f"/proc/{pid}/environ").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stale_file_kills_nobody(root):
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        started = (stack.Started("airflow-api", bystander.pid, "1"),)  # the number is somebody else's now
        stack._save(root, stack.Stack(stack.Kind.DEMO, PORTS, started, stack.boot_id()))
        stack.down(root, say=lambda _: None)
        assert bystander.poll() is None
    finally:
        bystander.kill()


def test_status_says_when_nothing_runs(root, capsys):
    assert main(["status", "--root", str(root)]) == 1
    assert "make up" in capsys.readouterr().out


def test_help_answers_without_airflow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pipeline_lib.services", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "demo" in done.stdout
    assert "airflow.configuration" not in done.stderr
    assert "pydantic" not in done.stderr
