"""A stage's side of a training job of two ranks: `run_job`, which starts the DeepSpeed launcher, which starts the ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipeline_lib.training.spec import JobSpec
from tests.unit.training.tiny import build_world

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
from pipeline_lib.errors import PipelineError
from pipeline_lib.launch import run_job
from pipeline_lib.training.spec import JobSpec
try:
    run_job(JobSpec.from_json(Path("spec.json").read_text()))
except PipelineError as error:
    print(f"STAGE: {error}")
    sys.exit(error.exit_code)
"""


def world_with(path: Path, spec: JobSpec) -> Path:
    """A directory with everything that a job reads, and the job itself."""
    path.mkdir()
    build_world(path)
    (path / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    return path


def start(root: Path, **settings: str) -> subprocess.Popen[str]:
    """Start the job of `root`; `settings` are environment variables."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    return subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and what it said, once it has ended."""
    said = process.communicate(timeout=600)[0]
    return process.returncode, said


def beat(root: Path, rank: int) -> tuple[int, int]:
    """(steps finished, pid), once it has given a sign of life."""
    deadline = time.monotonic() + 60
    while not (found := list(root.glob(f"checkpoints/*/rank-{rank}.alive"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (path,) = found
    line = json.loads(path.read_text())
    return line[1], line[3]


def pid_of(root: Path, rank: int) -> int:
    """The process of that rank."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = Path(process.cwd()).is_relative_to(root) and process.environ().get("RANK") == str(rank)
            if mine and "pipeline_lib.training.job" in process.cmdline():
                found.append(process.pid)
        except psutil.Error:
            continue
    (pid,) = found
    return pid


def wait_for_checkpoint(root: Path, process: subprocess.Popen[str], step: int) -> None:
    """Return as soon as the checkpoint of that step is there."""
    deadline = time.monotonic() + 300
    while not list(root.glob(f"checkpoints/*/step-{step:08d}")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes_in(root: Path) -> list[str]:
    """Command lines of processes that work in `root`."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(_command(process)))
        except psutil.Error:
            continue
    return found


def _command(process: psutil.Process) -> list[str]:
    """Its command line; psutil.NoSuchProcess when it ends. In the middle of an exec and at its end it has none for a moment."""
    deadline = time.monotonic() + 10
    while not (words := process.cmdline()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return words
