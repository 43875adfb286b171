"""MLflow loads no pickle: the server really has the setting, whatever the shell of `make up` said, and the setting works."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.services import production, settings, stack
from pipeline_lib.services.postgres import Server
from pipeline_lib.services.started import Started, born, log_path, tail

NAME = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
REPOSITORY = Path(__file__).resolve().parents[2]
DATABASE = Server("127.0.0.1", 1, "nobody", "none")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the project's own settings of MLflow, in a shell that asks for the opposite."""
    monkeypatch.setenv(NAME, "true")
    (tmp_path / "mlflow").mkdir()
    shutil.copy(REPOSITORY / "mlflow/server.env", tmp_path / "mlflow")
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".run").mkdir()
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[Started]:
    """The MLflow server of `make up`, started as that does."""
    ports = {"airflow": 1, "mlflow": stack._free_port(0), "files": 2}
    (service,) = (s for s in settings.services(root, ports, defer=False) if s.name == "mlflow")
    started = stack._start(root, service, settings.environment(root, ports))
    try:
        end = time.monotonic() + 120
        while not stack._answers(str(service.health)):
            assert born(started.pid) == started.born, tail(log_path(root, "mlflow"))
            assert time.monotonic() < end, tail(log_path(root, "mlflow"))
            time.sleep(0.2)
        yield started
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        end = time.monotonic() + 30
        while _session(started.pid) and time.monotonic() < end:
            time.sleep(0.1)
        if _session(started.pid):
            os.killpg(started.pid, signal.SIGKILL)


def _session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(leader) and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_the_server_and_its_workers_have_the_setting(server: Started) -> None:
    processes = _session(server.pid)
    assert len(processes) >= 2, "the server has a worker"
    for pid in processes:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert [line for line in environment if line.startswith(NAME.encode())] == [f"{NAME}=false".encode()]


def test_the_server_of_the_production_stack_gets_it_too(root: Path) -> None:
    ports = {"airflow": 1, "mlflow": 2, "files": 3}
    (service,) = (s for s in production.services(root, ports, DATABASE) if s.name == "mlflow")
    assert {**production.environment(root, ports, DATABASE), **service.env}[NAME] == "false"


def test_the_unit_of_systemd_reads_the_same_file() -> None:
    unit = (REPOSITORY / "infra/systemd/mlflow.service").read_text().splitlines()
    assert "EnvironmentFile=/srv/r1/mlflow/server.env" in unit
    assert NAME not in "".join(unit)
    assert NAME not in (REPOSITORY / "infra/airflow/airflow.env").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("value", "goes_off"), [(None, False), ("true", True)])
def test_a_pickled_model_is_refused_with_this_setting(root: Path, value: str | None, goes_off: bool) -> None:
    """What MLflow makes of the setting, in a process with the environment of the services; `true` shows that the bomb works."""
    code = (
        "import os, sys, mlflow.pyfunc\n"
        "class Bomb(mlflow.pyfunc.PythonModel):\n"
        "    def __reduce__(self):\n"
        "        return os.mkdir, ('owned',)\n"
        "    def predict(self, context, model_input):\n"
        "        return model_input\n"
        "mlflow.pyfunc.save_model('model', python_model=Bomb(), pip_requirements=[])\n"
        "mlflow.pyfunc.load_model('model')\n"
    )
    env = settings.environment(root, {"airflow": 1, "mlflow": 2, "files": 3})
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**env, **({NAME: value} if value else {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (root / "owned").exists() is goes_off, done.stderr[-2000:]
    assert done.returncode != 0
    assert (NAME in done.stderr) is not goes_off, done.stderr[-2000:]
