"""Logs of finished tasks in S3, with the keys that Airflow's connection has now: the module of `[logging] logging_config_class`.

Airflow 3.3.2 keeps, for as long as a process lives, the connection of its first log and the S3 client that it made with it. So its workers,
triggerer and API server would go on with the keys of that log, or with none, until all three are restarted. And a log page whose S3
refuses the keys shows nothing, though the log is on the disk. Half a second a log is the price.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG as LOGGING_CONFIG
from airflow.providers.amazon.aws.log.s3_task_handler import S3RemoteLogIO


class TaskLogs:
    """What Airflow asks of a remote log (`RemoteLogIO`): the Amazon provider's own, made anew for each log."""

    processors = ()

    def upload(self, path: os.PathLike[str] | str, ti: Any = None) -> None:
        """Send a log; where S3 refuses it stays on the disk."""
        try:
            S3RemoteLogIO.from_config().upload(path, ti)
        finally:
            _forget_connection()

    def read(self, relative_path: str, ti: Any) -> tuple[list[str], list[str] | None]:
        """Return where the logs of an attempt are, and what they say; with S3 away or refusing, only why."""
        try:
            return S3RemoteLogIO.from_config().read(relative_path, ti)
        except Exception as error:  # boto's or Airflow's: the page shows the disk's log instead
            return [f"S3 does not show its logs: {type(error).__name__}: {error}"], None


def _forget_connection() -> None:
    """Make the worker's next task ask for the connection again. Airflow has no name for it that is public: a version without it fails here."""
    supervisor = sys.modules.get("airflow.sdk.execution_time.supervisor")
    if supervisor is not None:  # only a worker has it
        supervisor._REMOTE_LOGGING_CONN_CACHE.clear()


REMOTE_TASK_LOG = TaskLogs()

__all__ = ["LOGGING_CONFIG", "REMOTE_TASK_LOG"]
