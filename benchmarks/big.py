"""A million word problems through cleaning and gate: time and memory of the two stages."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import MemoryWatch, table
from benchmarks._word_problems import big_world

ROWS = 1_000_000
ROOT = Path(__file__).resolve().parent.parent
STAGES = ("prepare_problems", "validate_problems")


def run(bench: Bench) -> str:
    """Each stage once: minutes of work do not spread as milliseconds do."""
    rows = 20_000 if bench.quick else ROWS
    planted = big_world(bench.folder, rows)
    lines = [(stage, *_measured(bench.folder, stage, rows)) for stage in STAGES]
    dropped = planted.rows - planted.clean
    return (
        f"{rows:,} word problems of about 40 words, {dropped:,} of them planted repeats or benchmark questions (all found; "
        "`tests/faults/test_big_problem_set.py`). Memory is the stage's with its children, one run each.\n\n"
        + table(("stage", "minutes", "rows a second", "memory"), lines)
    )


def _measured(folder: Path, stage: str, rows: int) -> tuple[str, str, str]:
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "R1_MLFLOW_LINGER": "0"}
    process = subprocess.Popen([sys.executable, "-m", f"tasks.{stage}"], cwd=folder, env=environment)
    watch = MemoryWatch(process.pid, 1.0)
    if process.wait() != 0:
        raise RuntimeError(f"{stage} ended with {process.returncode}")
    seconds = time.monotonic() - began
    return f"{seconds / 60:.1f}", f"{rows / seconds:,.0f}", f"{watch.stop() / 1024:.1f} GiB"


BENCHMARK = Benchmark("big", "A million problems", run)
