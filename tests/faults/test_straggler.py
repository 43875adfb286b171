"""A rank that stands still: for a while, which costs time only, and for ever, which ends the job with its name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.training.tiny import build_world, grpo_spec

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 6.0
PAUSE = 3.0
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
SPEC = grpo_spec(steps=14, kl_coef=0.01, engine={"world_size": 2})

pytestmark = pytest.mark.slow


def _world(path: Path) -> Path:
    path.mkdir()
    build_world(path)
    (path / "spec.json").write_text(SPEC.to_json(), encoding="utf-8")
    return path


def _start(root: Path) -> subprocess.Popen[str]:
    """The stage's side of the job: it starts the DeepSpeed launcher, which starts both ranks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "R1_RANK_TIMEOUT_SECONDS": str(PATIENCE)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=600)[0]
    return process.returncode, said


def _beat(root: Path, rank: int) -> tuple[int, int]:
    """(steps finished, pid)."""
    (path,) = root.glob(f"checkpoints/*/rank-{rank}.alive")
    beat = json.loads(path.read_text())
    return beat[1], beat[3]


def _wait_for_checkpoint(root: Path, process: subprocess.Popen[str], step: int) -> None:
    deadline = time.monotonic() + 300
    while not list(root.glob(f"checkpoints/*/step-{step:08d}")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _outputs(root: Path) -> list[bytes]:
    return [
        (root / name).read_bytes()
        for name in ("plot.csv", "rollouts.parquet", "models/r1_zero/model.safetensors")
    ]


def _processes_in(root: Path) -> list[str]:
    """Command lines of processes that work in `root`."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_a_paused_rank_is_waited_for_and_a_stopped_one_ends_the_job_with_its_name(tmp_path: Path) -> None:
    whole, disturbed = _world(tmp_path / "whole"), _world(tmp_path / "disturbed")
    assert _end(_start(whole)) == (0, "")

    process = _start(disturbed)
    _wait_for_checkpoint(disturbed, process, 2)
    _, pid = _beat(disturbed, 1)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE / 2)
    reached = _beat(disturbed, 0)[0]
    time.sleep(PAUSE / 2)
    assert _beat(disturbed, 0)[0] == reached < SPEC.section["steps"], (
        "rank 0 waits for the one that is paused"
    )
    os.kill(pid, signal.SIGCONT)
    _wait_for_checkpoint(disturbed, process, 2 * (reached // 2 + 2))

    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    code, said = _end(process)
    assert code == 1, said  # neither 2 nor 3: it is retried
    assert time.monotonic() - stopped < PATIENCE + 60
    (line,) = said.splitlines()
    assert re.fullmatch(
        rf"STAGE: train_r1_zero: rank 1 \(pid {pid} on \S+\) has stood still for 6 s; steps finished by rank: 0: \d+, 1: \d+\. .*",
        line,
    ), line
    assert _processes_in(disturbed) == []

    assert _end(_start(disturbed)) == (0, "")
    assert _outputs(disturbed) == _outputs(whole)
