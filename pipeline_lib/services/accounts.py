"""The accounts of the production stack: made once Airflow and MLflow answer, used by whoever talks to them from here.

The first administrator of Airflow can only be made by its command line, which reads the password from standard input;
everybody else is made through the REST APIs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration.links import basic
from pipeline_lib.services import credentials
from pipeline_lib.services.airflow_api import AirflowApi, AirflowRefused, Login
from pipeline_lib.services.production import (
    MLFLOW_ADMIN,
    MLFLOW_CLIENT,
    PEOPLE,
    mlflow_file,
    people_file,
)
from pipeline_lib.services.started import log_path, tail

ADMIN, OPERATOR = "admin", "operator"


class AccountRefused(PipelineError):
    """An account could not be made."""


def login(root: Path, name: str = OPERATOR) -> Login:
    """Return how one of the first accounts logs in to Airflow. The operator triggers runs and makes pools."""
    return Login(name, credentials.passwords(people_file(root), PEOPLE)[name])


def ensure_airflow_accounts(root: Path, address: str, env: Mapping[str, str]) -> None:
    """Make the accounts of `PEOPLE` that are missing; who is there keeps role and password.

    Raises:
        AccountRefused: Airflow's command line failed, or somebody changed the administrator's password.
    """
    admin = AirflowApi(address, login(root, ADMIN))
    try:
        present = _names(admin)
    except AirflowRefused as refusal:
        if refusal.status != 401:
            raise
        _make_first_admin(root, env)
        present = _names(admin)
    for name, role in PEOPLE.items():
        if name not in present:
            body = {
                **{"username": name, "first_name": name, "last_name": role, "email": f"{name}@localhost"},
                **{"password": login(root, name).password, "roles": [{"name": role}]},
            }
            admin.call("POST", "/users", body, below="/auth/fab/v1")


def ensure_mlflow_client(root: Path, address: str) -> None:
    """Make MLflow's account for stages. Raises AccountRefused."""
    passwords = credentials.passwords(mlflow_file(root), (MLFLOW_ADMIN, MLFLOW_CLIENT))
    body = {"username": MLFLOW_CLIENT, "password": passwords[MLFLOW_CLIENT]}
    request = urllib.request.Request(
        f"{address}/api/2.0/mlflow/users/create",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": basic(MLFLOW_ADMIN, passwords[MLFLOW_ADMIN]),
        },
    )
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        if json.loads(error.read() or b"{}").get("error_code") != "RESOURCE_ALREADY_EXISTS":
            raise AccountRefused(f"MLflow refused to make the account {MLFLOW_CLIENT}: {error}") from None


def _names(admin: AirflowApi) -> set[str]:
    return {
        user["username"] for user in admin.call("GET", "/users?limit=1000", below="/auth/fab/v1")["users"]
    }


def _make_first_admin(root: Path, env: Mapping[str, str]) -> None:
    password = login(root, ADMIN).password
    command = [
        sys.executable,
        "-m",
        "airflow",
        "users",
        "create",
        "--username",
        ADMIN,
        "--role",
        PEOPLE[ADMIN],
    ]
    command += ["--firstname", ADMIN, "--lastname", ADMIN, "--email", f"{ADMIN}@localhost"]
    log = log_path(root, "airflow-users")
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            cwd=root,
            env=env,
            input=f"{password}\n{password}\n".encode(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # without a terminal the password is read from standard input
            check=False,
        )
    if done.returncode != 0:
        raise AccountRefused(f"Airflow did not make the account {ADMIN}:\n{tail(log)}")
