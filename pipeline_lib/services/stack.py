"""Start the services, know whether they are well, stop every process they started.

Each service leads a session of its own, so a closed terminal does not end it. `.run/services.json`
remembers them; the leader's start time and the machine's boot id tell a stale file from a live one.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration import processes
from pipeline_lib.orchestration.processes import SERVICES_MARK
from pipeline_lib.services.airflow_api import AirflowApi
from pipeline_lib.services.settings import (
    HOST,
    PREFERRED_PORTS,
    Service,
    environment,
    gpu_slots,
    services,
    url,
)

START_TIMEOUT_S = 300.0
STOP_GRACE_S = 20.0

Say = Callable[[str], None]


class ServiceFailed(PipelineError):
    """A service did not start; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Started:
    """A service process that was started."""

    name: str
    pid: int
    born: str
    """Start time of the process in clock ticks since boot, as /proc says it."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The services of a checkout, as `.run/services.json` remembers them."""

    ports: Mapping[str, int]
    processes: tuple[Started, ...]
    boot: str

    @property
    def airflow(self) -> str:
        """Address of Airflow."""
        return url(self.ports["airflow"])

    @property
    def mlflow(self) -> str:
        """Address of MLflow."""
        return url(self.ports["mlflow"])

    @property
    def files(self) -> str:
        """Address of the file server."""
        return url(self.ports["files"])

    def groups(self) -> frozenset[int]:
        """Return the sessions that are ours: not those whose number now belongs to somebody else."""
        if self.boot != _boot_id():
            return frozenset()
        return frozenset(p.pid for p in self.processes if _born(p.pid) in (p.born, None))

    def alive(self) -> bool:
        """True while every service's own process lives."""
        return self.boot == _boot_id() and all(_born(p.pid) == p.born for p in self.processes)


def up(root: Path, say: Say = print) -> Stack:
    """Start the services of a checkout unless they run, wait until they are well, and return them.

    Raises:
        ServiceFailed: One of them died or never answered; whatever had been started is stopped again.
    """
    with _locked(root):
        running = load(root)
        if running is not None and running.alive():
            say(f"already running: Airflow {running.airflow} · MLflow {running.mlflow}")
            return running
        _stop(root, running)
        ports = {name: _free_port(port) for name, port in PREFERRED_PORTS.items()}
        env = environment(root, ports)
        (root / ".mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        started: list[Started] = []
        wanted = services(root, ports)
        try:
            for service in wanted[:2]:  # MLflow starts while Airflow prepares its database
                started.append(_start(root, service, env))
            say("preparing Airflow's database")
            _migrate(root, env)
            started += [_start(root, service, env) for service in wanted[2:]]
            stack = Stack(ports, tuple(started), _boot_id())
            _save(root, stack)
            _wait_until_well(root, stack, wanted, say)
            AirflowApi(stack.airflow).ensure_pool(
                "gpu", gpu_slots(), "Stages that want a GPU (or, without one, the machine)."
            )
        except BaseException:
            _stop(root, Stack(ports, tuple(started), _boot_id()))
            raise
        say(f"ready in {time.monotonic() - begun:.0f} s: Airflow {stack.airflow} · MLflow {stack.mlflow}")
        return stack


def down(root: Path, say: Say = print) -> None:
    """Stop the services and everything they started, running stages included (SIGTERM first: they checkpoint)."""
    with _locked(root):
        stack = load(root)
        mark = _mark(root)
        if not processes.members(stack.groups() if stack else (), mark):
            say("nothing is running")
        else:
            _stop(root, stack)
            say("stopped")
        _file(root).unlink(missing_ok=True)


def load(root: Path) -> Stack | None:
    """Return what `.run/services.json` remembers, or None."""
    if not _file(root).is_file():
        return None
    saved = json.loads(_file(root).read_text(encoding="utf-8"))
    return Stack(saved["ports"], tuple(Started(**p) for p in saved["processes"]), saved["boot"])


def log_path(root: Path, service: str) -> Path:
    """Return the file a service writes its output to."""
    return root / ".run" / "logs" / f"{service}.log"


def _stop(root: Path, stack: Stack | None) -> None:
    processes.stop(stack.groups() if stack else (), _mark(root), STOP_GRACE_S)


def _start(root: Path, service: Service, env: Mapping[str, str]) -> Started:
    log = log_path(root, service.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            service.command,
            cwd=root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(service.name, process.pid, _born(process.pid) or "")


def _migrate(root: Path, env: Mapping[str, str]) -> None:
    log = log_path(root, "airflow-db")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        code = subprocess.run(
            command, cwd=root, env=env, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code != 0:
        raise ServiceFailed(f"airflow db migrate failed:\n{_tail(log)}")


def _wait_until_well(root: Path, stack: Stack, wanted: Sequence[Service], say: Say) -> None:
    waiting = {service.name: service.health for service in wanted if service.health}
    api = AirflowApi(stack.airflow)
    deadline = time.monotonic() + START_TIMEOUT_S
    todo = "services"
    while waiting or todo:
        for process in stack.processes:
            if _born(process.pid) != process.born:
                raise ServiceFailed(
                    f"{process.name} ended at its start:\n{_tail(log_path(root, process.name))}"
                )
        for name in [name for name, health in waiting.items() if health and _answers(health)]:
            del waiting[name]
            say(f"{name} answers")
        if not waiting:
            unwell = api.unhealthy_parts(triggerer=any(s.name == "airflow-triggerer" for s in wanted))
            if not unwell:
                return
            todo = ", ".join(unwell)
        if time.monotonic() > deadline:
            raise ServiceFailed(f"not well after {START_TIMEOUT_S:.0f} s: {', '.join(waiting) or todo}")
        time.sleep(0.5)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceFailed("no free port on 127.0.0.1")


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _born(pid: int) -> str | None:
    """Return a process's start time, or None when there is no such process (or only its zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _mark(root: Path) -> str:
    return f"{SERVICES_MARK}={root}"


def _file(root: Path) -> Path:
    return root / ".run" / "services.json"


def _save(root: Path, stack: Stack) -> None:
    temporary = _file(root).with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(stack), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, _file(root))


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    (root / ".run").mkdir(exist_ok=True)
    with (root / ".run" / "services.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
