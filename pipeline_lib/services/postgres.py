"""A PostgreSQL of the checkout's own: Debian's programs, loopback only, data below `.run/postgres`.

It is started and stopped with the other services. PostgreSQL refuses to run as root, so root starts it as the user
`postgres` of Debian's package. Where `R1_POSTGRES_URL` names a server, that one is used and nothing is started.
Passwords reach initdb on its standard input and the server as SCRAM verifiers, so none is in a log or a process list.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration import processes
from pipeline_lib.services import credentials
from pipeline_lib.services.settings import HOST
from pipeline_lib.services.started import Started, born, log_path, start, tail

URL = "R1_POSTGRES_URL"
"""Environment variable: the address of a server that is there already (`Server.parse` says how to write it)."""

ROLE = "r1"
"""Who owns the databases: may make databases, is no superuser."""

DATABASES = ("airflow", "mlflow", "mlflow_auth")
SUPERUSER = "postgres"
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 30.0


class DatabaseFailed(PipelineError):
    """PostgreSQL is not installed, did not start, or refuses."""


@dataclass(frozen=True, slots=True)
class Server:
    """A PostgreSQL server and the role we use it with."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> Server:
        """Read an address with user, password and host; the error does not repeat it, it holds a password."""
        parts = urlsplit(url)
        if parts.scheme != "postgresql" or not parts.hostname or not parts.username or parts.password is None:
            raise DatabaseFailed(f"{URL}: write it as postgresql:// with user:password@host:port")
        return cls(parts.hostname, parts.port or 5432, unquote(parts.username), unquote(parts.password))

    def url(self, database: str) -> str:
        """Return the SQLAlchemy address of a database."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"postgresql+psycopg2://{login}@{self.host}:{self.port}/{database}"


def start_server(root: Path, port: int) -> tuple[Server, Started]:
    """Start the checkout's own server and return it, ready, with the role `r1`.

    Raises:
        DatabaseFailed: Not installed, out of reach of the user it runs as, or it did not start.
    """
    programs = _programs()
    user = _unprivileged_user()
    data = data_directory(root)
    _prepare_directory(data.parent, user)
    superuser = Server(HOST, port, SUPERUSER, credentials.drawn(credentials.folder(root) / "postgres.secret"))
    if not data.is_dir():
        _create_cluster(programs / "initdb", data, superuser.password, user)
    settings = {
        "port": str(port),
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "max_connections": "200",
        # Statements that fail are logged without their parameters' values.
        "log_parameter_max_length_on_error": "0",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    command = (str(programs / "postgres"), "-D", str(data), *options)
    # Not our environment: it holds credentials, and the mark by which everything else is found and stopped first.
    process = start("postgres", command, root, {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}, user)
    try:
        connection = _connect_when_ready(superuser, process, root)
        password = credentials.drawn(credentials.folder(root) / "database.secret")
        _ensure_role(connection, password)
        connection.close()
    except BaseException:
        stop_server(root)
        processes.stop((process.pid,), None, STOP_GRACE_S)
        raise
    return Server(HOST, port, ROLE, password), process


def ensure_databases(server: Server) -> None:
    """Create the databases that are missing. Raises DatabaseFailed where the server or the role cannot."""
    import psycopg2
    from psycopg2 import sql

    try:
        connection = _connect(server)
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            present = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in present:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection.close()
    except psycopg2.Error as error:
        reason = " ".join(str(error).split())
        raise DatabaseFailed(
            f"PostgreSQL at {server.host}:{server.port}, user {server.user}: {reason}. The databases "
            f"{', '.join(DATABASES)} must be there, or the user may make them (CREATEDB)."
        ) from None


def stop_server(root: Path) -> bool:
    """Stop the checkout's server, if it runs: connections are ended, what is committed stays. True if it ran."""
    data = data_directory(root)
    pid = _postmaster(data)
    if pid is None:
        return False
    # The process itself is waited for: it removes its pid file before it has written its last line and ended.
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        # SIGINT: "fast shutdown". SIGQUIT gives up at once and leaves the recovery to the next start.
        for number, patience_s in (
            (signal.SIGINT, STOP_GRACE_S),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], patience_s)[0]:
                return True
    finally:
        os.close(process)
    raise DatabaseFailed(f"PostgreSQL (process {pid}) does not stop; see {log_path(root, 'postgres')}")


def data_directory(root: Path) -> Path:
    """Return the data directory of the checkout's server."""
    return root / ".run" / "postgres" / "data"


def _postmaster(data: Path) -> int | None:
    """Return the process that serves `data`, or None: its own file names it, and it works in that directory."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        return pid if Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve() else None
    except (OSError, ValueError, IndexError):
        return None


def _programs() -> Path:
    """Return the directory of PostgreSQL's programs, the newest version's; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("postgres")
    if found is None:
        raise DatabaseFailed(
            f"PostgreSQL is not installed: `make postgres` (as root), or set {URL} to a server's address"
        )
    return Path(found).resolve().parent


def _unprivileged_user() -> str | None:
    return SUPERUSER if os.geteuid() == 0 else None


def _prepare_directory(directory: Path, user: str | None) -> None:
    """Make the directory around the data, private to the user the server runs as."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user is None:
        return
    shutil.chown(directory, user, user)
    reachable = subprocess.run(
        ["test", "-w", str(directory)], user=user, group=user, extra_groups=[], check=False
    )
    if reachable.returncode != 0:
        raise DatabaseFailed(
            f"{directory}: the user {user}, as whom root starts PostgreSQL, cannot reach it: a directory above is "
            f"closed to others. Put the checkout elsewhere (/srv), start as an ordinary user, or set {URL}"
        )


def _create_cluster(initdb: Path, data: Path, password: str, user: str | None) -> None:
    """Make an empty cluster; `data` appears when it is whole."""
    making = data.with_name("data.new")
    shutil.rmtree(making, ignore_errors=True)
    command = [str(initdb), "-D", str(making), "-U", SUPERUSER, "--auth=scram-sha-256", "--pwprompt"]
    done = subprocess.run(
        [*command, "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"],
        input=f"{password}\n{password}\n",  # without a terminal initdb reads the password here
        text=True,
        capture_output=True,
        start_new_session=True,
        cwd="/",
        check=False,
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise DatabaseFailed(f"initdb failed: {' '.join(done.stderr.split())[-500:]}")
    making.rename(data)


def _connect(server: Server, database: str = "postgres") -> Any:
    """Return a connection whose statements are transactions of their own."""
    import psycopg2

    connection = psycopg2.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        dbname=database,
        connect_timeout=10,
    )
    connection.autocommit = True
    return connection


def _connect_when_ready(server: Server, process: Started, root: Path) -> Any:
    import psycopg2

    problem = ""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and born(process.pid) == process.born:
        try:
            return _connect(server)
        except psycopg2.OperationalError as error:
            problem = " ".join(str(error).split())
        time.sleep(0.2)
    raise DatabaseFailed(f"PostgreSQL did not start: {problem}\n{tail(log_path(root, 'postgres'))}")


def _ensure_role(connection: Any, password: str) -> None:
    from psycopg2 import extensions, sql

    # The verifier, not the password: a failing statement is logged.
    verifier = extensions.encrypt_password(password, ROLE, connection, "scram-sha-256")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (ROLE,))
        verb = "ALTER" if cursor.fetchone() else "CREATE"
        statement = sql.SQL("{} ROLE {} LOGIN CREATEDB PASSWORD {}")
        cursor.execute(statement.format(sql.SQL(verb), sql.Identifier(ROLE), sql.Literal(verifier)))
