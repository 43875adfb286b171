"""How each service is started: its command, its environment, where it keeps its state.

Everything listens on 127.0.0.1 only. This is the demo stack: Airflow logs everybody in as administrator, which is right
on one's own machine and for nothing else. `production` builds on it (docs/operations.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_lib.orchestration.processes import SERVICES_MARK
from pipeline_lib.services.credentials import drawn

HOST = "127.0.0.1"
PREFERRED_PORTS: Mapping[str, int] = {"airflow": 8080, "mlflow": 5000, "files": 8800}
"""Asked for first; a taken one is replaced by any free one."""


PLUGINS = Path(__file__).resolve().parents[2] / "infra" / "airflow" / "plugins"
"""Of Airflow's API server: the names that it answers to."""
GPU_SLOTS = 1 if Path("/dev/nvidia0").exists() else 2
"""Stages of the pool `gpu` that `make up` lets run at once. With GPUs one has the whole machine: its `world_size` is known when a run has begun,
Airflow reads a task's slots with the DAG, and two stages that start here would both begin with the first GPU. Without, two share the cores: while
one starts, loads or saves on a core, the other computes (docs/operations.md, Slots)."""
DEFERRABLE = "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE"
"""Airflow's own setting: stages wait in a triggerer and hold no worker. The only one of Airflow's that `make up` takes over."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process to start."""

    name: str
    command: tuple[str, ...]
    health: str | None
    """URL that answers once the service works; None for one that Airflow's own health page reports on."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What this service alone is told."""


def url(port: int) -> str:
    """Return the address of a service on this machine."""
    return f"http://{HOST}:{port}"


def environment(root: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """Return the environment all services share (`AIRFLOW…` only Airflow's own); stages inherit it from the scheduler."""
    home = root / ".run" / "airflow"
    airflow = url(ports["airflow"])
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW") or name.startswith("AIRFLOW_CONN_")
    }
    env.update(
        read_env_file(root / "mlflow" / "server.env"),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)]),
        PYTHONPATH=str(root),
        MLFLOW_TRACKING_URI=url(ports["mlflow"]),
        # Any other name is refused: a page whose name was made to point here (DNS rebinding) has its own in the request.
        MLFLOW_SERVER_ALLOWED_HOSTS=f"{HOST}:{ports['mlflow']},localhost:{ports['mlflow']}",
        MLFLOW_SERVER_CORS_ALLOWED_ORIGINS=url(ports["mlflow"]),
        R1_FILES_URL=url(ports["files"]),
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(root / "dags"),
        # infra/airflow/plugins/hosts.py does for Airflow what MLFLOW_SERVER_ALLOWED_HOSTS does for MLflow.
        AIRFLOW__CORE__PLUGINS_FOLDER=str(PLUGINS),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="False",
        AIRFLOW__CORE__EXECUTOR="LocalExecutor",
        AIRFLOW__CORE__PARALLELISM=str(max(4, os.cpu_count() or 1)),
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"{airflow}/execution/",
        # A task gives up on the API server after 5 s by default; a machine whose cores all train may need longer.
        AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT="60",
        AIRFLOW__API__HOST=HOST,
        AIRFLOW__API__PORT=str(ports["airflow"]),
        AIRFLOW__API__BASE_URL=airflow,
        AIRFLOW__API__WORKERS="1",
        AIRFLOW__API__SECRET_KEY=drawn(home / "api.secret"),
        AIRFLOW__API_AUTH__JWT_SECRET=drawn(home / "jwt.secret"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home / 'airflow.db'}",
        AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(home / "logs"),
        AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL="30",
        AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL="60",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
        **{DEFERRABLE: str(deferrable())},
    )
    env[SERVICES_MARK] = str(root)
    return env


def services(root: Path, ports: Mapping[str, int], *, defer: bool) -> tuple[Service, ...]:
    """Return what `up` starts, in order.

    A triggerer only where stages `defer`. `--skip-serve-logs`: that log server would listen on every interface,
    and on one machine the API server reads the files itself.
    """
    python = sys.executable
    airflow = (python, "-m", "airflow")
    files = (python, "-m", "pipeline_lib.services.files", str(root), str(ports["files"]))
    store = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{root / '.mlflow' / 'mlflow.db'}"}
    return (
        mlflow_server(root, ports, store),
        Service("files", files, url(ports["files"]) + "/health"),
        Service("airflow-api", (*airflow, "api-server"), url(ports["airflow"]) + "/api/v2/version"),
        Service("airflow-scheduler", (*airflow, "scheduler", "--skip-serve-logs"), None),
        Service("airflow-dag-processor", (*airflow, "dag-processor"), None),
        *(
            [Service("airflow-triggerer", (*airflow, "triggerer", "--skip-serve-logs"), None)]
            if defer
            else []
        ),
    )


def mlflow_server(
    root: Path, ports: Mapping[str, int], env: Mapping[str, str], options: tuple[str, ...] = ()
) -> Service:
    """Return MLflow's server. Its databases come in `env`: an address may hold a password, and everybody reads commands."""
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(ports["mlflow"])),
        *("--artifacts-destination", (root / ".mlflow" / "artifacts").as_uri(), "--workers", "1", *options),
    )
    return Service("mlflow", command, url(ports["mlflow"]) + "/health", env)


def deferrable() -> bool:
    """True where stages are to wait in the triggerer: `AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE=True make up`."""
    return os.environ.get(DEFERRABLE, "").lower() in ("true", "t", "1")


def read_env_file(path: Path) -> dict[str, str]:
    """Return the NAME=value lines of a systemd-style environment file."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in pairs}
