"""MLflow's client, opened so that many processes may do it at once and nothing calls home.

Open one only where MLflow is really needed: the imports cost 3 s of CPU, a new SQLite store 2 s more.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.startup import absent, uncollected
from pipeline_lib.tracking.locations import EXPERIMENT, artifact_root, store_dir

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}
"""No telemetry; short patience, because the shipper has its own retries."""

UNUSED = ("pandas", "scipy")
"""For data sets that are frames and models that are logged with an example; MLflow's small edition does without them."""


def open_client(uri: str, root: Path | None = None) -> MlflowClient:
    """Return a client for `uri`; a SQLite store is created first if need be (once, under a lock, in WAL mode)."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    with absent(*UNUSED), uncollected():  # the store is imported when the first client is made
        from mlflow.tracking import MlflowClient

        if not uri.startswith("sqlite:///"):
            return MlflowClient(uri, uri)
        folder = store_dir(root)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "init.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _use_wal(Path(uri.removeprefix("sqlite:///")))
            client = MlflowClient(uri, uri)
            client.search_experiments(max_results=1)
        return client


def experiment_id(client: MlflowClient, root: Path | None = None) -> str:
    """Return the id of the project's experiment, creating it where it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(EXPERIMENT, artifact_location=artifact_root(root))
    except MlflowException:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return found.experiment_id


def _use_wal(path: Path) -> None:
    """Let readers (the server, other worktrees) go on while one process writes; the mode stays with the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=20)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
