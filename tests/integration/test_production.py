"""The production stack, started once: PostgreSQL, log-ins with roles, outputs and logs in S3, an MLflow that asks who you are.

The keys of S3 are in a connection of Airflow's and nowhere else: none in the environment, none in the home directory. Real programs throughout: Debian's PostgreSQL, SeaweedFS as S3, Airflow's FAB auth manager, MLflow's basic-auth server.
Not covered: TLS and the proxy in front, systemd itself, several machines, single sign-on.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline_lib.orchestration import processes
from pipeline_lib.orchestration.dvc_remote import Run, run_path
from pipeline_lib.orchestration.links import basic
from pipeline_lib.orchestration.patience import PATIENCE_ENV
from pipeline_lib.orchestration.remote_settings import REMOTE_ENV
from pipeline_lib.orchestration.worktree import worktree_path
from pipeline_lib.services import accounts, postgres, production
from pipeline_lib.services import stack as stacks
from pipeline_lib.services.airflow_api import AirflowApi, AirflowRefused, Login
from pipeline_lib.storage.dvc_cache import cache_dir
from pipeline_lib.tracking.outputs import locked_stages
from tests import seaweed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures" / "tiny_pipeline"))
from build_tiny import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DAG, RUN = "deepseek_r1", "green"
LOGS, REMOTE = f"s3://{seaweed.BUCKET}/task-logs", f"s3://{seaweed.BUCKET}/remote"
CONNECTION = production.LOGS_CONNECTION
WRONG = "not-the-password-of-s3"  # pragma: allowlist secret
TEACHER_STEPS = 120
"""Of a tenth of a second: longer than a worker waits for a stage before the triggerer does."""
RUN_TIMEOUT_S = 1500.0


@dataclass
class Production:
    """The running stack, and what was seen of its processes while a run was under way."""

    root: Path
    stack: stacks.Stack
    operator: AirflowApi
    commands: set[bytes] = field(default_factory=set)
    stage_environments: set[bytes] = field(default_factory=set)

    def secrets(self) -> dict[str, bytes]:
        """Every password and key of the checkout, by where it is kept."""
        folder = self.root / ".run" / "secrets"
        found = {file.name: file.read_bytes() for file in folder.glob("*.secret")}
        found |= {f.name: f.read_bytes() for f in (self.root / ".run" / "airflow").glob("*.secret")}
        for file in folder.glob("*.json"):
            found |= {f"{file.name}:{k}": v.encode() for k, v in json.loads(file.read_text()).items()}
        return found | {"S3": seaweed.SECRET.encode(), "S3, mistyped": WRONG.encode()}

    def connect(self, storage: seaweed.Seaweed, password: str) -> None:
        """Store the keys as an administrator does: in Airflow's connection `aws_default`."""
        admin = AirflowApi(self.stack.airflow, accounts.login(self.root, "admin"))
        extra = {"endpoint_url": storage.endpoint, "region_name": "us-east-1"}
        body = {"connection_id": CONNECTION, "conn_type": "aws", "login": seaweed.KEY, "password": password}
        body["extra"] = json.dumps(extra)
        known = [c["connection_id"] for c in admin.get("/connections")["connections"]]
        if CONNECTION in known:
            admin.call("PATCH", f"/connections/{CONNECTION}", body)
        else:
            admin.call("POST", "/connections", body)

    def wait(self, runs: Mapping[str, str]) -> None:
        """Look at processes until every run (run id -> DAG id) has ended."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while any(
            self.operator.run(dag, run)["state"] not in ("success", "failed") for run, dag in runs.items()
        ):
            assert time.monotonic() < deadline
            for _ in range(8):
                self.look_at_processes()
                time.sleep(0.25)

    def task(self, dag: str, run: str, task: str) -> dict[str, Any]:
        """A task instance that is not mapped."""
        (found,) = [i for i in self.operator.task_instances(dag, run) if i["task_id"] == task]
        return found

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        """The log of an attempt as Airflow shows it."""
        path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}?full_content=true"
        return json.dumps(self.operator.get(path))

    def look_at_processes(self) -> None:
        """Note every command line of the machine, and the environment of processes that work for a stage."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    self.commands.add((entry / "cmdline").read_bytes())
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if f"{processes.STAGE_MARK}={self.root}".encode() in environment:
                    self.stage_environments.add(environment)


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory the user `postgres` can reach, as pytest's own are not."""
    try:
        postgres._programs()
    except postgres.DatabaseFailed as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    with tempfile.TemporaryDirectory(prefix="r1-production-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def storage(open_directory: Path) -> Iterator[seaweed.Seaweed]:
    """An S3 server with one bucket."""
    home = open_directory / "s3"
    home.mkdir()
    with seaweed.seaweed(home) as server:
        yield server


@pytest.fixture(scope="module")
def up(open_directory: Path, storage: seaweed.Seaweed) -> Iterator[Production]:
    """The stack over a new tiny project, with its outputs and logs in S3, for which its services were told no key."""
    root = build(open_directory / "project")
    home = open_directory / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        environment.setenv("HOME", str(home))
        environment.setenv(production.TASK_LOGS, LOGS)
        environment.setenv(REMOTE_ENV, REMOTE)
        environment.setenv(PATIENCE_ENV, "5")
        environment.delenv(postgres.URL, raising=False)
        said: list[str] = []
        try:
            stack = stacks.up(root, said.append, stacks.Kind.PRODUCTION)
            running = Production(root, stack, stacks.airflow_api(root, stack))
            assert str(production.people_file(root)) in "\n".join(said)
            assert not [
                name for name, value in running.secrets().items() if value.decode() in "\n".join(said)
            ]
            running.connect(storage, seaweed.SECRET)
            deadline = time.monotonic() + 300
            while not running.operator.has_dag(DAG):
                assert not running.operator.import_errors(), running.operator.import_errors()
                assert time.monotonic() < deadline, "the DAGs were not read"
                time.sleep(2)
            yield running
        finally:
            stacks.down(root, lambda _: None)


@pytest.fixture(scope="module")
def finished(up: Production) -> Production:
    """The stack after one run of the pipeline, triggered by the operator."""
    overrides = {"evaluate.models": ["base", "r1", "tiny-a"]}
    form = {"students": ["tiny-a"], "r1_zero_steps": TEACHER_STEPS, "overrides": overrides}
    up.operator.trigger(DAG, form, RUN)
    up.wait({RUN: DAG})
    return up


def _status(request: urllib.request.Request | str) -> int:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_airflow_knows_nobody_without_a_password(up):
    assert _status(f"{up.stack.airflow}/api/v2/dags") == 401
    assert _status(f"{up.stack.airflow}/auth/token") in (401, 403, 404, 405)
    with pytest.raises(AirflowRefused) as refusal:
        AirflowApi(up.stack.airflow, Login("admin", "admin")).get("/dags")
    assert refusal.value.status == 401


def test_a_viewer_reads_and_cannot_trigger(up):
    viewer = AirflowApi(up.stack.airflow, accounts.login(up.root, "viewer"))
    assert viewer.has_dag(DAG)
    for forbidden in (
        lambda: viewer.trigger(DAG, {}, "not-by-a-viewer"),
        lambda: viewer.get("/connections"),
        lambda: viewer.call("POST", "/pools", {"name": "mine", "slots": 1}),
    ):
        with pytest.raises(AirflowRefused) as refusal:
            forbidden()
        assert refusal.value.status == 403


def test_an_operator_may_not_make_users(up):
    with pytest.raises(AirflowRefused) as refusal:
        up.operator.call("GET", "/users", below="/auth/fab/v1")
    assert refusal.value.status == 403


def test_a_run_of_the_operator_goes_green_on_postgresql(finished):
    states = {i["task_id"]: i["state"] for i in finished.operator.task_instances(DAG, RUN)}
    assert set(states.values()) == {"success"}
    assert {"create_run", "train_r1_zero", "distill", "evaluate", "finish_run"} <= set(states)
    assert _query(finished, "airflow", f"SELECT state FROM dag_run WHERE run_id = '{RUN}'") == [("success",)]
    stages = _query(finished, "mlflow", "SELECT value FROM tags WHERE key = 'stage'")
    assert ("train_r1_zero",) in stages
    assert not {"airflow.db", "mlflow.db"} & {file.name for file in _files(finished.root)}


def _query(running: Production, database: str, statement: str) -> list[tuple]:
    password = (running.root / ".run/secrets/database.secret").read_text()
    pid_file = postgres.data_directory(running.root) / "postmaster.pid"
    port = int(pid_file.read_text().splitlines()[3])
    connection = postgres._connect(postgres.Server("127.0.0.1", port, postgres.ROLE, password), database)
    with connection.cursor() as cursor:
        cursor.execute(statement)
        rows = cursor.fetchall()
    connection.close()
    return rows


def test_the_mlflow_link_of_a_task_leads_to_its_run(finished):
    instance = next(i for i in finished.operator.task_instances(DAG, RUN) if i["task_id"] == "train_r1_zero")
    run_id = finished.operator.links(instance)["MLflow run"].rpartition("/")[2]
    page = f"{finished.stack.mlflow}/api/2.0/mlflow/runs/get?run_id={run_id}"
    assert _status(_as_pipeline(finished, page)) == 200


def test_a_log_is_shown_from_s3_when_its_file_is_gone(finished, storage):
    said = "train_r1_zero: COMPUTED"
    local = finished.root / ".run" / "airflow" / "logs" / f"dag_id={DAG}" / f"run_id={RUN}"
    assert list(local.rglob("*.log"))
    shutil.rmtree(local)
    assert said in finished.log(DAG, RUN, "train_r1_zero")
    logs = [key for key in storage.keys("task-logs") if "task_id=train_r1_zero/" in key]
    assert [key for key in logs if ".trigger." in key], "the stage was deferred: the triggerer has a log, too"
    for log in logs:
        storage.client().delete_object(Bucket=seaweed.BUCKET, Key=log)
    assert said not in finished.log(DAG, RUN, "train_r1_zero")  # so it did come from there


def test_the_keys_of_a_stored_connection_are_all_that_stages_and_logs_need(finished, storage):
    for process in finished.stack.processes:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert seaweed.SECRET.encode() not in environment, process.name
        assert seaweed.KEY.encode() not in environment, process.name
    assert any(seaweed.SECRET.encode() in environment for environment in finished.stage_environments)
    (stored,) = _query(finished, "airflow", f"SELECT password FROM connection WHERE conn_id = '{CONNECTION}'")
    assert seaweed.SECRET not in stored[0]
    for address, stage in locked_stages(worktree_path(finished.root, RUN)).items():
        assert storage.keys(f"remote/logs/{RUN}/{address}/attempt-1/stage.log"), address
        done = Run(stage)
        assert storage.keys(f"remote/{run_path(done.key, done.value)}"), address
        for md5 in done.outs:
            assert storage.keys(f"remote/files/md5/{md5[:2]}/{md5[2:]}"), address
    for task in ("create_run", "prepare_problems", "plan_evaluate"):
        assert storage.keys(f"task-logs/dag_id={DAG}/run_id={RUN}/task_id={task}/attempt=1.log"), task


@pytest.fixture(scope="module")
def refused(finished: Production, storage: seaweed.Seaweed) -> Production:
    """The machine lost its DVC cache and a run's outputs, somebody mistyped the connection's password, and two runs met that."""
    tree = worktree_path(finished.root, RUN)
    for lost in (cache_dir(finished.root), tree / "data", tree / "models"):
        shutil.rmtree(lost)
    finished.connect(storage, WRONG)
    finished.operator.trigger(DAG, {"seed": 5}, "refused")
    finished.operator.trigger("evaluate", {"from_run": f"run/{RUN}", "models": ["r1"]}, "again")
    finished.wait({"refused": DAG, "again": "evaluate"})
    return finished


@pytest.mark.parametrize(
    ("dag", "run", "task"), [(DAG, "refused", "prepare_problems"), ("evaluate", "again", "restore_inputs")]
)
def test_a_wrong_password_in_the_connection_is_one_line_and_no_retry(refused, storage, dag, run, task):
    failed = refused.task(dag, run, task)
    assert (failed["state"], failed["try_number"]) == ("failed", 1)
    why = refused.operator.xcom(failed, "error")
    assert "refused the credentials" in why
    assert "Check the keys in the Airflow connection aws_default" in why
    assert "\n" not in why
    assert "refused the credentials" in refused.log(dag, run, task), "S3 refuses the log, the disk has it"
    assert not storage.keys(f"task-logs/dag_id={dag}/run_id={run}/task_id={task}/")


def test_a_lost_cache_is_filled_from_s3_once_the_password_is_right(refused, storage):
    """Cleared, a stage of a finished run is restored and not computed again; `evaluate` waits for S3 and finds its models."""
    tree = worktree_path(refused.root, RUN)
    copies = (tree / ".run" / "copies").read_bytes()
    refused.connect(storage, seaweed.SECRET)
    storage.kill()
    again: dict[str, Any] = {"dry_run": False, "only_failed": True}
    refused.operator.call("POST", "/dags/evaluate/dagRuns/again/clear", again)
    deadline = time.monotonic() + 300
    while refused.task("evaluate", "again", "restore_inputs")["state"] != "up_for_retry":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    storage.start()
    again = {"dry_run": False, "dag_run_id": RUN, "task_ids": ["train_r1_zero"], "only_failed": False}
    refused.operator.call("POST", f"/dags/{DAG}/clearTaskInstances", again)
    refused.wait({RUN: DAG, "again": "evaluate"})
    restored = refused.task(DAG, RUN, "train_r1_zero")
    assert (restored["state"], restored["try_number"]) == ("success", 2)
    assert refused.operator.xcom(restored, "return_value") == "restored from cache"
    assert (tree / ".run" / "copies").read_bytes() == copies, "the stage's program was not started"
    assert json.loads((tree / "models/r1/model.json").read_text())["steps"] == TEACHER_STEPS
    tasks = refused.operator.task_instances("evaluate", "again")
    logs_of = {
        i["task_id"]: refused.log("evaluate", "again", i["task_id"], attempt=i["try_number"])[-3000:]
        for i in tasks
        if i["state"] == "failed"
    }
    assert logs_of == {}
    assert {i["state"] for i in tasks} == {"success"}
    said = refused.log("evaluate", "again", "restore_inputs", attempt=3)
    assert "objects that the DVC cache lacked fetched" in said
    logs = "task-logs/dag_id=evaluate/run_id=again/task_id=restore_inputs"
    assert not storage.keys(f"{logs}/attempt=1.log")
    assert storage.keys(f"{logs}/attempt=3.log"), "logs follow the connection, too"
    theirs = worktree_path(refused.root, "evaluate-again")
    assert (theirs / "models/r1/model.json").read_bytes() == (tree / "models/r1/model.json").read_bytes()


UPLOAD = "import sys; from airflow.logging_config import get_remote_task_log; get_remote_task_log().upload(sys.argv[1])"


def test_without_the_connection_task_logs_take_keys_from_the_environment(refused, storage):
    """The last test that needs the connection. Airflow's own code, as its scheduler is set up, with keys and without."""
    admin = AirflowApi(refused.stack.airflow, accounts.login(refused.root, "admin"))
    admin.call("DELETE", f"/connections/{CONNECTION}")
    (scheduler,) = (p for p in refused.stack.processes if p.name == "airflow-scheduler")
    told = Path(f"/proc/{scheduler.pid}/environ").read_bytes().decode().split("\0")
    environment = dict(pair.split("=", 1) for pair in told if pair)
    for name, keys, arrives in (("none.log", {}, False), ("keys.log", storage.environment, True)):
        (refused.root / ".run" / "airflow" / "logs" / name).write_text("said")
        subprocess.run([sys.executable, "-c", UPLOAD, name], env={**environment, **keys}, check=False)
        assert bool(storage.keys(f"task-logs/{name}")) is arrives


def _as_pipeline(running: Production, address: str, body: dict | None = None) -> urllib.request.Request:
    client = production.client_environment(running.root)
    login = basic(client["MLFLOW_TRACKING_USERNAME"], client["MLFLOW_TRACKING_PASSWORD"])
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.Request(address, data, {"Authorization": login, "Content-Type": "application/json"})


def test_mlflow_asks_who_you_are(up):
    search = f"{up.stack.mlflow}/api/2.0/mlflow/experiments/search?max_results=10"
    assert _status(search) == 401
    assert _status(up.stack.mlflow) == 401
    guess = {"Authorization": basic("admin", "password1234")}
    assert _status(urllib.request.Request(search, headers=guess)) == 401
    assert _status(_as_pipeline(up, search)) == 200
    user = {"username": "intruder", "password": "a-long-enough-password"}  # pragma: allowlist secret
    assert _status(_as_pipeline(up, f"{up.stack.mlflow}/api/2.0/mlflow/users/create", user)) == 403


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Accept", "application/json", 200),
        ("Origin", "http://evil.example", 403),
        ("Host", "evil.example:5000", 403),
        ("Host", "10.0.0.1:5000", 403),
    ],
)
def test_mlflow_refuses_foreign_hosts_and_origins(up, header, value, status):
    search = _as_pipeline(up, f"{up.stack.mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 1})
    search.add_header(header, value)
    assert _status(search) == status


def test_reports_want_a_login(up):
    page = f"{up.stack.files}/reports/report.html"
    assert _status(page) == 401
    password = json.loads(production.reader_file(up.root).read_text())["reader"]
    assert _status(urllib.request.Request(page, headers={"Authorization": basic("reader", password)})) == 200
    assert _status(f"{up.stack.files}/health") == 200


def test_airflow_refuses_foreign_hosts(up):
    foreign = urllib.request.Request(f"{up.stack.airflow}/api/v2/version", headers={"Host": "evil.example"})
    assert _status(foreign) == 400
    assert _status(f"{up.stack.airflow}/api/v2/version") == 200


def test_no_secret_is_in_a_log_a_command_or_the_worktree(finished, storage):
    finished.look_at_processes()
    secrets = finished.secrets()
    assert len(secrets) >= 12
    leaks = {name for name, value in secrets.items() if any(value in c for c in finished.commands)}
    assert leaks == set()
    read = 0
    for place in (".run/logs", ".run/airflow/logs", "runs", ".mlflow"):
        for file in _files(finished.root / place):
            if file.is_file() and "cache" not in file.parts:
                content = _bytes(file)
                read += 1
                assert not [name for name, value in secrets.items() if value in content], file
    assert read > 20
    seen = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=finished.root,
        check=True,
        capture_output=True,
    ).stdout
    for file in seen.decode().split("\0")[:-1]:
        content = (finished.root / file).read_bytes()
        assert not [name for name, value in secrets.items() if value in content], file
    everywhere = [file for file in _files(finished.root) if file.is_file() and not file.is_symlink()]
    s3 = (seaweed.SECRET.encode(), WRONG.encode())
    assert not [file for file in everywhere if any(secret in _bytes(file) for secret in s3)]
    uploaded = {**storage.keys("task-logs"), **storage.keys("remote/")}
    assert len(uploaded) > 5
    for key in uploaded:
        content = storage.body(key)
        assert not [name for name, value in secrets.items() if value in content], key


def _files(place: Path) -> list[Path]:
    """Every file below a place where services work. A directory that one removes meanwhile is passed over, which rglob does not."""
    return [Path(folder, name) for folder, _, names in os.walk(place) for name in names]


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # a service has removed it since it was listed
        return b""


def test_secret_files_are_their_owners_alone(up):
    folder = up.root / ".run" / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert set(modes.values()) == {0o600}
    assert {"airflow.json", "mlflow.json", "files.json", "mlflow-client.env", "database.secret"} <= set(modes)


def test_a_stage_is_told_the_mlflow_account_and_nothing_of_the_servers(finished):
    assert finished.stage_environments
    secrets = finished.secrets()
    mine = {"mlflow.json:pipeline", "S3", "S3, mistyped"}
    for environment in finished.stage_environments:
        assert {name for name, value in secrets.items() if value in environment} <= mine
        assert b"\0AIRFLOW" not in environment
    assert any(b"MLFLOW_TRACKING_USERNAME=pipeline" in e for e in finished.stage_environments)


def test_everything_listens_on_loopback_only(up):
    ours = processes.members(up.stack.groups(), stacks._mark(up.root)) | {
        p.pid for p in up.stack.processes if p.name == "postgres"
    }
    listening = [
        c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in ours
    ]
    assert len(listening) >= 4
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_the_other_stack_is_refused_while_this_one_runs(up):
    with pytest.raises(stacks.ServiceFailed, match="the production stack runs here: `make down` stops it"):
        stacks.up(up.root, lambda _: None)
    assert stacks.up(up.root, lambda _: None, stacks.Kind.PRODUCTION) == up.stack


def test_down_stops_all_of_it(up):
    """The last test of the stack: nothing that it started runs on."""
    groups = up.stack.groups()
    (database,) = (p for p in up.stack.processes if p.name == "postgres")
    stacks.down(up.root, lambda _: None)
    assert processes.members(groups, stacks._mark(up.root)) == set()
    assert stacks.born(database.pid) is None
    assert not (postgres.data_directory(up.root) / "postmaster.pid").exists()


def test_a_server_that_is_given_is_used_and_left_running(open_directory, monkeypatch):
    """`R1_POSTGRES_URL`: here the server of one checkout is given to another, which has none of its own."""
    owner, guest = open_directory / "owner", open_directory / "guest"
    server, _ = postgres.start_server(owner, stacks._free_port(0))
    try:
        address = server.url("postgres").replace("postgresql+psycopg2", "postgresql")
        monkeypatch.setenv(postgres.URL, address)
        started: list = []
        said: list[str] = []
        assert stacks._database(guest, started, said.append) == server
        assert stacks._database(guest, started, said.append) == server  # the databases are there now
        assert started == []
        assert server.password not in repr(server) + "".join(said)
        wrong = postgres.Server(server.host, server.port, server.user, "not-the-password")
        with pytest.raises(postgres.DatabaseFailed, match=r"may make them \(CREATEDB\)") as refused:
            postgres.ensure_databases(wrong)
        assert "not-the-password" not in str(refused.value)
        assert postgres.stop_server(guest) is False
        # What `make down` finds without any note of a start, after a crash say.
        assert postgres.stop_server(owner) is True
        log = (owner / ".run/logs/postgres.log").read_text()
        assert "database system is shut down" in log
        assert server.password not in log
    finally:
        postgres.stop_server(owner)
