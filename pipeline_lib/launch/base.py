"""What every launcher promises, and what they share: the job's directory and how its end is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipeline_lib.errors import (
    EXIT_BAD_INPUT,
    EXIT_PREEMPTED,
    DataError,
    PipelineError,
    Preempted,
)
from pipeline_lib.storage.atomic import write_bytes
from pipeline_lib.training.spec import JobSpec

RESULT = "result.json"
LOG = "job.log"
TAIL_LINES = 30
TOLD = ("Preempted: ", "ConfigError: ", "DataError: ", "StorageError: ")
"""How a job's one-line errors begin in its log (`training.job.main`)."""


class JobFailed(PipelineError):
    """A job crashed; the message holds the end of its log."""


class AlreadyRunning(PipelineError):
    """A second process asked for a job that a living one is already waiting for."""


class Launcher(Protocol):
    """Starts, finds again, signals and awaits a job."""

    def run(self, spec: JobSpec) -> Mapping[str, float]:
        """Run the job to its end; see `launch.run_job`."""
        ...


def prepare_folder(spec: JobSpec, root: Path) -> Path:
    """The job's directory, checkpoints/<name>-<content key>/, with its spec. DataError for a missing input."""
    folder = root / "checkpoints" / f"{spec.name}-{spec.content_key(root)}"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "spec.json", spec.to_json().encode())
    return folder


def finished_result(spec: JobSpec, root: Path, folder: Path) -> Mapping[str, float] | None:
    """The metrics of a job that is done and whose outputs are all there; None otherwise."""
    if not (folder / RESULT).is_file() or not all((root / path).exists() for path in spec.outputs.values()):
        return None
    metrics: Mapping[str, float] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return metrics


def error_of(code: int, folder: Path, name: str) -> PipelineError:
    """The exception that a job's exit code stands for, with the end of its log."""
    lines = [line for line in log_tail(folder) if line.strip()]
    told = [line for line in lines if line.startswith(TOLD)]
    message = told[-1].partition(": ")[2] if told else lines[-1] if lines else "no output"
    if code == EXIT_PREEMPTED:
        return Preempted(message)
    if code == EXIT_BAD_INPUT:
        return DataError(message)
    return JobFailed(f"{name} ended with exit code {code}; the end of {folder / LOG}:\n" + "\n".join(lines))


def log_tail(folder: Path) -> list[str]:
    """The last lines of the job's log."""
    path = folder / LOG
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]


def remove_folder(folder: Path) -> None:
    """Remove a finished job's directory with its checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)
