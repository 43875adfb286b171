"""The logs of a stage's attempt, kept in S3: `logs/<run>/<stage>/attempt-<n>/`, below R1_LOGS or R1_REMOTE.

What the stage said, and the log of its training job where the job left one (a job that ended well said everything to the stage, and its
directory is gone). Failed attempts too: they are the ones people look for, and a node may be gone by then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline_lib.errors import ConfigError, StorageError
from pipeline_lib.orchestration.patience import for_each, patience_s
from pipeline_lib.orchestration.redaction import Redactor
from pipeline_lib.orchestration.remote_settings import LOGS_ENV, remote_address
from pipeline_lib.storage import s3
from pipeline_lib.tracking.locations import pipeline_run

LONGEST_WAIT_S = 30.0
"""A stage that was told to stop, or that failed, does not wait minutes to tell."""
_ATTEMPT = re.compile(r"/attempt-(\d+)/")


def logs_address() -> str | None:
    """Where logs go; None when neither variable is set. ConfigError when it is no S3 address."""
    asked = os.environ.get(LOGS_ENV)
    if asked:
        try:
            s3.S3Uri.parse(asked)
        except StorageError as error:
            raise ConfigError(LOGS_ENV, asked, "must be s3://bucket or s3://bucket/prefix") from error
        return asked.rstrip("/")
    remote = remote_address()
    return f"{remote}/logs" if remote else None


def upload_logs(root: Path, address: str, tell: Callable[[str], None]) -> None:
    """Send the logs that the latest attempt at a stage left in the worktree, with secrets taken out. Raises StorageError."""
    base = logs_address()
    files = dict(_logs(root, address))
    if base is None or not files:
        return
    redact = Redactor(os.environ)
    stage = f"{base}/{pipeline_run(root)}/{address}/"
    numbers: list[int] = []

    def count(prefix: str) -> None:
        found = (_ATTEMPT.search(item.uri.key) for item in s3.list_objects(prefix))
        numbers[:] = [int(match[1]) for match in found if match]

    def send(name: str) -> None:
        text = files[name].read_text(encoding="utf-8", errors="replace")
        s3.write(redact(text).encode(), f"{stage}attempt-{max(numbers, default=0) + 1}/{name}")

    patience = min(patience_s(), LONGEST_WAIT_S)
    for_each([stage], count, patience=patience, tell=tell)
    for_each(list(files), send, patience=patience, tell=tell)


def _logs(root: Path, address: str) -> Iterator[tuple[str, Path]]:
    stage = root / ".run" / "log" / f"{address}.log"
    if stage.is_file():
        yield "stage.log", stage
    for file in sorted((root / "checkpoints").glob(f"{address}-{'[0-9a-f]' * 16}/*.log")):
        yield file.name, file
