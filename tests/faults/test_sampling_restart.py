"""kill -9 of a stage that samples for training data: the next run goes on, and its output is that of an undisturbed one.

R1_ROLLOUTS sets the number of responses (short: 1,600; `make test-faults`: 10,000). Every case runs the stage's own command
on the shipped micro base.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks._measure import MemoryWatch
from pipeline_lib.data import microworld
from pipeline_lib.data.schema import read_samples, write_problems
from pipeline_lib.params import compose
from pipeline_lib.rejection_sampling import ROWS_AT_ONCE
from pipeline_lib.sample_journal import FILE

ROOT = Path(__file__).resolve().parents[2]
ROLLOUTS = int(os.environ.get("R1_ROLLOUTS", "1600"))
SAMPLES = 4
MEMORY_MIB = 1500
"""Of the stage and its verifiers, whatever the number of rollouts."""

pytestmark = pytest.mark.slow


def _folder(path: Path) -> Path:
    path.mkdir()
    tree = compose("micro", {}, root=ROOT)
    tree["sample_rejections"] |= {"samples": SAMPLES, "problems": ROLLOUTS // SAMPLES, "general_problems": 50}
    (path / "params.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    for name in ("profiles", "mlflow", "assets"):
        (path / name).symlink_to(ROOT / name)
    (path / "models").mkdir()
    (path / "models/reasoning_rl").symlink_to(ROOT / "assets/micro/base")
    write_problems(path / "data/hard/train.parquet", microworld.problems("math", ROLLOUTS // SAMPLES, 3))
    write_problems(path / "data/problems/general.parquet", microworld.problems("general", 60, 3))
    return path


def _start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "R1_MLFLOW_LINGER": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.sample_rejections"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(folder: Path) -> str:
    process = _start(folder)
    watch = MemoryWatch(process.pid, 0.5)
    errors = process.communicate(timeout=1800)[1]
    assert process.returncode == 0, errors
    peak = watch.stop()
    assert peak < MEMORY_MIB
    print(f"{ROLLOUTS} rollouts: {peak:.0f} MiB at most")
    return errors


def _kill_after(folder: Path, batches: int) -> int:
    """kill -9 once so many batches are on the disk; how many there are then."""
    process = _start(folder)
    deadline = time.monotonic() + 600
    while sum(_lines(folder)) < batches:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # into the middle of the next batch
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return sum(_lines(folder))


def _lines(folder: Path) -> list[int]:
    return [path.read_bytes().count(b"\n") for path in folder.glob(f"checkpoints/*/{FILE}")]


def _outputs(folder: Path) -> list[bytes]:
    names = ("data/rejections/train.parquet", "reports/metrics/sample_rejections.json")
    return [(folder / name).read_bytes() for name in names]


def test_a_killed_sampling_stage_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = _folder(tmp_path / "whole"), _folder(tmp_path / "killed")
    assert "goes on" not in _finish(whole)
    held = _kill_after(killed, 2)
    # DVC deletes a stage's outputs before it runs it again; the journal is none.
    assert not (killed / "data/rejections").exists()
    errors = _finish(killed)
    problems = ROLLOUTS // SAMPLES
    went_on = re.search(r"goes on behind (\d+) of (\d+) problems", errors)
    assert went_on, errors
    assert [int(number) for number in went_on.groups()] == [
        min(held * ROWS_AT_ONCE // SAMPLES, problems),
        problems,
    ]
    assert _outputs(killed) == _outputs(whole)
    metrics = json.loads(_outputs(whole)[1])
    assert metrics["sampled"] == ROLLOUTS
    assert len(read_samples(killed / "data/rejections/train.parquet")) == metrics["kept"] + 50
    for folder in (whole, killed):
        assert not list(folder.glob("checkpoints/*")), "a finished stage leaves no journal"
