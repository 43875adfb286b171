"""Start the services of either stack, know whether they are well, stop every process they started.

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
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration import links, processes
from pipeline_lib.orchestration.links import TrackingServer
from pipeline_lib.orchestration.processes import SERVICES_MARK
from pipeline_lib.services import accounts, postgres, production, settings
from pipeline_lib.services.airflow_api import AirflowApi
from pipeline_lib.services.settings import GPU_SLOTS, HOST, PREFERRED_PORTS, Service, url
from pipeline_lib.services.started import Started, boot_id, born, log_path, start, tail

DATABASE = "postgres"
START_TIMEOUT_S = 300.0
STOP_GRACE_S = 20.0

Say = Callable[[str], None]


class ServiceFailed(PipelineError):
    """A service did not start; the message holds the end of its log."""


class Kind(StrEnum):
    """Which stack."""

    DEMO = "demo"
    """SQLite, and everybody is administrator."""
    PRODUCTION = "production"
    """PostgreSQL, and everybody logs in."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The services of a checkout, as `.run/services.json` remembers them."""

    kind: Kind
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
        """Return the sessions that are ours, PostgreSQL's apart: not those whose number now belongs to somebody else."""
        if self.boot != boot_id():
            return frozenset()
        ours = (p for p in self.processes if p.name != DATABASE)
        return frozenset(p.pid for p in ours if born(p.pid) in (p.born, None))

    def alive(self) -> bool:
        """True while every service's own process lives."""
        return self.boot == boot_id() and all(born(p.pid) == p.born for p in self.processes)


def up(root: Path, say: Say = print, kind: Kind = Kind.DEMO) -> Stack:
    """Start the services of a checkout unless they run, wait until they are well, and return them.

    Raises:
        ServiceFailed: One of them died or never answered; whatever had been started is stopped again.
        PipelineError: The other stack runs, or the production stack lacks something it needs.
    """
    with _locked(root):
        running = load(root)
        if running is not None and running.alive():
            if running.kind is not kind:
                raise ServiceFailed(f"the {running.kind} stack runs here: `make down` stops it")
            say(f"already running: Airflow {running.airflow} · MLflow {running.mlflow}")
            return running
        _stop(root, running)
        (root / ".mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        started: list[Started] = []
        try:
            with _alone(say):
                stack = _start_all(root, kind, started, say)
        except BaseException:
            _stop(root, Stack(kind, {}, tuple(started), boot_id()))
            raise
        say(f"ready in {time.monotonic() - begun:.0f} s: Airflow {stack.airflow} · MLflow {stack.mlflow}")
        if kind is Kind.PRODUCTION:
            say(f"passwords: Airflow {production.people_file(root)} ({', '.join(production.PEOPLE)})")
            say(f"           MLflow  {production.mlflow_file(root)}; clients: {production.client_file(root)}")
            say(f"           files   {production.reader_file(root)}")
        return stack


def _start_all(root: Path, kind: Kind, started: list[Started], say: Say) -> Stack:
    """Start everything, noting it in `started` as it goes, and wait until all is well."""
    ports = {name: _free_port(port) for name, port in PREFERRED_PORTS.items()}
    if kind is Kind.PRODUCTION:
        server = _database(root, started, say)
        env = production.environment(root, ports, server)
        wanted = production.services(root, ports, server)
    else:
        env = settings.environment(root, ports)
        wanted = settings.services(root, ports, defer=settings.deferrable())
    for service in wanted[:2]:  # MLflow starts while Airflow prepares its database
        started.append(_start(root, service, env))
    say("preparing Airflow's database")
    _migrate(root, env)
    started += [_start(root, service, env) for service in wanted[2:]]
    stack = Stack(kind, ports, tuple(started), boot_id())
    _save(root, stack)
    _wait_until_well(root, stack, wanted, say)
    if kind is Kind.PRODUCTION:
        accounts.ensure_airflow_accounts(root, stack.airflow, env)
        accounts.ensure_mlflow_client(root, stack.mlflow)
    api = airflow_api(root, stack)
    api.ensure_pool("gpu", GPU_SLOTS, "Stages that want the machine's GPUs (or, without, its cores).")
    return stack


def airflow_api(root: Path, stack: Stack) -> AirflowApi:
    """Return a client of the stack's Airflow that may trigger runs."""
    return AirflowApi(stack.airflow, accounts.login(root) if stack.kind is Kind.PRODUCTION else None)


def tracking_server(root: Path, stack: Stack) -> TrackingServer:
    """Return the stack's MLflow as links need it, with the log-in it wants."""
    env = production.client_environment(root) if stack.kind is Kind.PRODUCTION else {}
    server = links.tracking_server({**env, "MLFLOW_TRACKING_URI": stack.mlflow}, root)
    assert server is not None
    return server


def _database(root: Path, started: list[Started], say: Say) -> postgres.Server:
    """Return the PostgreSQL server with its databases: the one R1_POSTGRES_URL names, or the checkout's own, started."""
    given = os.environ.get(postgres.URL)
    if given:
        server = postgres.Server.parse(given)
    else:
        server, process = postgres.start_server(root, _free_port(5432))
        started.append(process)
    postgres.ensure_databases(server)
    say(f"PostgreSQL answers on {server.host}:{server.port}")
    return server


def down(root: Path, say: Say = print) -> None:
    """Stop the services and everything they started, running stages included (SIGTERM first: they checkpoint)."""
    with _locked(root):
        stack = load(root)
        was_running = bool(processes.members(stack.groups() if stack else (), _mark(root)))
        was_running = _stop(root, stack) or was_running
        say("stopped" if was_running else "nothing is running")
        _file(root).unlink(missing_ok=True)


def load(root: Path) -> Stack | None:
    """Return what `.run/services.json` remembers, or None."""
    if not _file(root).is_file():
        return None
    saved = json.loads(_file(root).read_text(encoding="utf-8"))
    started = tuple(Started(**p) for p in saved["processes"])
    return Stack(Kind(saved["kind"]), saved["ports"], started, saved["boot"])


def _stop(root: Path, stack: Stack | None) -> bool:
    """Stop everything, the database last: what ends still writes to it. True if the checkout's own database ran."""
    processes.stop(stack.groups() if stack else (), _mark(root), STOP_GRACE_S)
    return postgres.stop_server(root)


def _start(root: Path, service: Service, env: Mapping[str, str]) -> Started:
    ours = service.name.startswith("airflow")
    shared = {name: value for name, value in env.items() if ours or not name.startswith("AIRFLOW")}
    return start(service.name, service.command, root, {**shared, **service.env})


def _migrate(root: Path, env: Mapping[str, str]) -> None:
    log = log_path(root, "airflow-db")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        code = subprocess.run(
            command, cwd=root, env=env, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code != 0:
        raise ServiceFailed(f"airflow db migrate failed:\n{tail(log)}")


def _wait_until_well(root: Path, stack: Stack, wanted: Sequence[Service], say: Say) -> None:
    waiting = {service.name: service.health for service in wanted if service.health}
    api = AirflowApi(stack.airflow)
    deadline = time.monotonic() + START_TIMEOUT_S
    todo = "services"
    while waiting or todo:
        for process in stack.processes:
            if born(process.pid) != process.born:
                raise ServiceFailed(
                    f"{process.name} ended at its start:\n{tail(log_path(root, process.name))}"
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


@contextmanager
def _alone(say: Say) -> Iterator[None]:
    """Of one user's checkouts one at a time starts services: a port that was found free is taken only when its service listens."""
    file = Path(tempfile.gettempdir()) / f"r1-services-{os.getuid()}.lock"
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another checkout is starting its services: waiting until it has its ports")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
