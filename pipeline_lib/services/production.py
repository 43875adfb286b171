"""The production stack: PostgreSQL below Airflow and MLflow, people with roles, task logs in S3 (docs/decisions/0015).

It is the demo stack with other settings, so what the tests start here is what infra/systemd starts elsewhere. Who gets
which secret: Airflow its database and keys, MLflow's server its databases and administrator, the file server its
readers' log-in, stages the MLflow account `pipeline` and nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline_lib.errors import ConfigError
from pipeline_lib.services import credentials, settings
from pipeline_lib.services.files import LOGIN
from pipeline_lib.services.postgres import URL, Server
from pipeline_lib.services.settings import Service

TASK_LOGS = "R1_TASK_LOGS"
"""Environment variable: s3://bucket/prefix where the logs of finished tasks go. Without it they stay on this disk."""

LOGS_CONNECTION = "aws_default"
"""Airflow connection with the keys for it; where there is none, boto3's own chain (AWS_… in the environment)."""

PEOPLE: Mapping[str, str] = {"admin": "Admin", "operator": "Op", "viewer": "Viewer"}
"""Who may log in to Airflow at first, and as what; administrators add others in Airflow (Security → List Users)."""

MLFLOW_ADMIN, MLFLOW_CLIENT = "admin", "pipeline"
"""MLflow's accounts: one for people who administer it, one for stages."""


READER = "reader"
"""The file server's one account: reports are for everybody who works here."""


def people_file(root: Path) -> Path:
    """Return the file of the Airflow passwords, a JSON object."""
    return credentials.folder(root) / "airflow.json"


def mlflow_file(root: Path) -> Path:
    """Return the file of the MLflow passwords, a JSON object."""
    return credentials.folder(root) / "mlflow.json"


def reader_file(root: Path) -> Path:
    """Return the file of the file server's password, a JSON object."""
    return credentials.folder(root) / "files.json"


def client_file(root: Path) -> Path:
    """Return the file that makes a shell or a service an MLflow client: `set -a; . FILE`."""
    return credentials.folder(root) / "mlflow-client.env"


def client_environment(root: Path) -> dict[str, str]:
    """Return what an MLflow client logs in with, and keep it in `client_file`."""
    password = credentials.passwords(mlflow_file(root), (MLFLOW_ADMIN, MLFLOW_CLIENT))[MLFLOW_CLIENT]
    values = {"MLFLOW_TRACKING_USERNAME": MLFLOW_CLIENT, "MLFLOW_TRACKING_PASSWORD": password}
    credentials.write_env_file(client_file(root), values)
    return values


def environment(root: Path, ports: Mapping[str, int], server: Server) -> dict[str, str]:
    """Return the environment all services share, as `settings.environment` does."""
    env = settings.environment(root, ports)
    env.pop(URL, None)
    env.update(
        client_environment(root),
        AIRFLOW__CORE__AUTH_MANAGER="airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="False",
        AIRFLOW__CORE__FERNET_KEY=credentials.fernet_key(credentials.folder(root) / "fernet.secret"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=server.url("airflow"),
        **{settings.DEFERRABLE: "True"},
    )
    logs = os.environ.get(TASK_LOGS)
    if logs:
        if not logs.startswith("s3://"):
            raise ConfigError(TASK_LOGS, logs, "not an S3 address; write it as s3://bucket/prefix")
        env.update(
            AIRFLOW__LOGGING__REMOTE_LOGGING="True",
            AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER=logs,
            AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID=LOGS_CONNECTION,
            # The connection may be made, and corrected, while the services run.
            AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS="dags._task_logs.LOGGING_CONFIG",
        )
    return env


def services(root: Path, ports: Mapping[str, int], server: Server) -> tuple[Service, ...]:
    """Return what `up` starts after PostgreSQL, in order."""
    mlflow = settings.mlflow_server(
        root, ports, _mlflow_environment(root, server), options=("--app-name", "basic-auth")
    )
    login = f"{READER}:{credentials.passwords(reader_file(root), (READER,))[READER]}"
    demo = {service.name: service for service in settings.services(root, ports, defer=True)}
    return tuple({**demo, "mlflow": mlflow, "files": replace(demo["files"], env={LOGIN: login})}.values())


def _mlflow_environment(root: Path, server: Server) -> dict[str, str]:
    folder = credentials.folder(root)
    config = folder / "mlflow-auth.ini"
    # `%` is configparser's own sign.
    database = server.url("mlflow_auth").replace("%", "%%")
    credentials.write_private(
        config,
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\nadmin_username = {MLFLOW_ADMIN}\n",
    )
    passwords = credentials.passwords(mlflow_file(root), (MLFLOW_ADMIN, MLFLOW_CLIENT))
    return {
        "MLFLOW_BACKEND_STORE_URI": server.url("mlflow"),
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": passwords[MLFLOW_ADMIN],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.drawn(folder / "mlflow-session.secret"),
    }
