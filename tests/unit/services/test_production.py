"""The production stack's settings, and that infra/ starts the same programs with them."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.orchestration.links import tracking_server
from pipeline_lib.services import credentials, postgres, production, settings

PROJECT = Path(__file__).resolve().parents[3]
PORTS = {"airflow": 8080, "mlflow": 5000, "files": 8800}
SERVER = postgres.Server("127.0.0.1", 5432, "r1", "p%40/:?#w")  # pragma: allowlist secret (the test's own)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow/server.env").write_text("")
    return tmp_path


def test_no_command_holds_an_address_or_a_password(root):
    production.environment(root, PORTS, SERVER)
    for service in (*production.services(root, PORTS, SERVER), *settings.services(root, PORTS, defer=True)):
        command = " ".join(service.command)
        assert "://127.0.0.1:5432" not in command
        assert "sqlite" not in command
        for file in credentials.folder(root).iterdir():
            assert file.read_text() not in command


def test_each_service_is_told_its_own_database_only(root):
    shared = production.environment(root, PORTS, SERVER)
    databases = {name for name, value in shared.items() if "postgresql" in value}
    assert databases == {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"}
    (mlflow,) = (s for s in production.services(root, PORTS, SERVER) if s.name == "mlflow")
    assert mlflow.env["MLFLOW_BACKEND_STORE_URI"].endswith("/mlflow")
    others = {s.name: s.env for s in production.services(root, PORTS, SERVER) if s.name != "mlflow"}
    reader = credentials.passwords(production.reader_file(root), ("reader",))["reader"]
    assert others.pop("files") == {"R1_FILES_LOGIN": f"reader:{reader}"}
    assert all(not env for env in others.values())


def test_the_url_of_a_given_server_does_not_travel_on(root, monkeypatch):
    monkeypatch.setenv(postgres.URL, "postgresql://r1:hidden@db:5432")  # pragma: allowlist secret
    assert not [v for v in production.environment(root, PORTS, SERVER).values() if "hidden" in v]


@pytest.mark.parametrize("url", ["db:5432", "mysql://a:b@c", "postgresql://db", "postgresql://a@db"])  # fmt: skip
def test_a_wrong_url_is_one_line_that_does_not_repeat_it(url):
    with pytest.raises(postgres.DatabaseFailed, match="write it as postgresql://") as refused:
        postgres.Server.parse(url)
    assert url not in str(refused.value)


def test_a_password_of_any_signs_survives_the_url():
    address = SERVER.url("x").replace("postgresql+psycopg2", "postgresql")
    assert postgres.Server.parse(address) == SERVER
    assert SERVER.password not in repr(SERVER)


def test_task_logs_go_to_s3_only_when_asked(root, monkeypatch):
    monkeypatch.delenv(production.TASK_LOGS, raising=False)
    assert "AIRFLOW__LOGGING__REMOTE_LOGGING" not in production.environment(root, PORTS, SERVER)
    monkeypatch.setenv(production.TASK_LOGS, "/var/log/r1")
    with pytest.raises(ConfigError, match=r"R1_TASK_LOGS.*write it as s3://"):
        production.environment(root, PORTS, SERVER)
    monkeypatch.setenv(production.TASK_LOGS, "s3://bucket/logs")
    env = production.environment(root, PORTS, SERVER)
    assert env["AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"] == "s3://bucket/logs"


def test_an_airflow_connection_is_handed_on_and_other_airflow_settings_are_not(root, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", "aws://")
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    env = production.environment(root, PORTS, SERVER)
    assert env["AIRFLOW_CONN_AWS_DEFAULT"] == "aws://"
    assert env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"


def test_secrets_are_drawn_once_and_private(root):
    file = credentials.folder(root) / "x.json"
    first = credentials.passwords(file, ("a", "b"))
    assert first["a"] != first["b"]
    assert credentials.passwords(file, ("b", "c")).items() >= first.items()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [f.name for f in file.parent.iterdir()] == ["x.json"]


def test_links_log_in_as_a_client_of_mlflow_does(root):
    uri = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    assert not tracking_server(uri, root).headers
    server = tracking_server({**uri, **production.client_environment(root)}, root)
    assert server.headers["Authorization"].startswith("Basic ")
    assert "Basic" not in repr(server)
    written = settings.read_env_file(production.client_file(root))
    assert written == production.client_environment(root)


def test_infra_sets_what_the_tested_stack_sets(root, monkeypatch):
    monkeypatch.setenv(production.TASK_LOGS, "s3://bucket/task-logs")
    env = production.environment(root, PORTS, SERVER)
    written = settings.read_env_file(PROJECT / "infra/airflow/airflow.env")
    same = [
        name for name in written if re.search("AUTH_MANAGER|REMOTE|EXECUTOR$|LOAD_EXAMPLES|API__HOST", name)
    ]
    assert len(same) == 8
    assert {name: written[name] for name in same} == {name: env[name] for name in same}
    assert env["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")[0] in written["MLFLOW_SERVER_ALLOWED_HOSTS"]


def test_infra_starts_what_the_tested_stack_starts(root, monkeypatch):
    monkeypatch.setenv(settings.DEFERRABLE, "True")  # as infra/airflow/airflow.env does
    started = {s.name: s.command for s in production.services(root, PORTS, SERVER)}
    assert "airflow-triggerer" in started
    for name in started:
        unit = (PROJECT / f"infra/systemd/{'r1-files' if name == 'files' else name}.service").read_text(
            encoding="utf-8"
        )
        (command,) = re.findall(r"^ExecStart=\S+/python (.*)$", unit, re.M)
        words = command.split()
        assert words[:3] == [word.replace(str(root), "/srv/r1") for word in started[name][1:4]]
        options = {word for word in started[name] if word.startswith("--")} - {"--artifacts-destination"}
        assert options <= set(words), name
        assert "URI" not in command
