"""A large problem set through cleaning and gate: what was planted is found, memory and time are bounded, a bad row is named.

R1_BIG_ROWS sets the number of rows (short: 20,000; `make test-faults`: 1,000,000). The file is made row by row, the stages
are run by their own commands.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks._measure import MemoryWatch
from benchmarks._word_problems import Planted, big_world
from pipeline_lib.data.schema import read_problems
from pipeline_lib.errors import EXIT_GATE_FAILED

ROOT = Path(__file__).resolve().parents[2]
ROWS = int(os.environ.get("R1_BIG_ROWS", "20000"))
MEMORY_MIB = 700 + ROWS * 1.5 / 1024
"""Of a stage with its children, proportional set size: 700 MiB for the libraries and 1.5 KiB a row, 2.1 GiB for a million."""
MINUTES = {"prepare_problems": 8.4, "validate_problems": 4.5}
"""Of a stage, for each million rows: three times what an idle, slow AMD EPYC of two cores took (2.8 and 1.5), because other test
workers may share them. Below a million rows the start of a stage weighs too much to say anything."""
PROCESSOR_MINUTES = {"prepare_problems": 4.2, "validate_problems": 2.4}
"""The same of the processor, which others do not share: one and a half times what it took beside two other workers (2.8 and 1.6)."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    folder = tmp_path_factory.mktemp("big")
    planted = big_world(folder, ROWS)
    _stage(folder, "prepare_problems")
    return folder, planted


def _stage(folder: Path, stage: str, code: int = 0) -> str:
    """Run a stage under watch; what it said."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"tasks.{stage}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "R1_MLFLOW_LINGER": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch, begun, spent = MemoryWatch(process.pid, 0.5), time.monotonic(), _processor_seconds()
    errors = process.communicate(timeout=5400)[1]
    assert process.returncode == code, errors[-4000:]
    minutes, processor = (time.monotonic() - begun) / 60, (_processor_seconds() - spent) / 60
    peak = watch.stop()
    print(
        f"{stage}: {ROWS:,} rows, {minutes:.1f} minutes, {processor:.1f} of the processor, {peak:,.0f} MiB at most"
    )
    assert peak < MEMORY_MIB
    if ROWS >= 1_000_000:
        assert minutes < MINUTES[stage] * ROWS / 1_000_000
        assert processor < PROCESSOR_MINUTES[stage] * ROWS / 1_000_000
    return errors


def _processor_seconds() -> float:
    """Of all child processes that have ended, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_what_was_planted_is_dropped_and_nothing_else(world: tuple[Path, Planted]) -> None:
    folder, planted = world
    counts = json.loads((folder / "reports/metrics/prepare_problems.json").read_text())
    assert {name: counts[f"train.{name}"] for name in ("loaded", "dropped_exact", "dropped_normalised", "dropped_near",
                                                       "dropped_benchmark", "kept")} == {
        "loaded": planted.rows, "dropped_exact": planted.exact, "dropped_normalised": planted.normalised,
        "dropped_near": planted.near, "dropped_benchmark": planted.contaminated, "kept": planted.clean,
    }  # fmt: skip
    assert len(read_problems(folder / "data/problems/train.parquet")) == planted.clean


def test_the_gate_passes_the_clean_set(world: tuple[Path, Planted]) -> None:
    folder, planted = world
    _stage(folder, "validate_problems")
    report = json.loads((folder / "reports/gates/validate_problems.json").read_text())
    assert report["success"]
    assert report["datasets"]["data/problems/train.parquet"]["rows"] == planted.clean


def test_the_gate_names_the_bad_rows_among_all(world: tuple[Path, Planted]) -> None:
    folder, planted = world
    path = folder / "data/problems/train.parquet"
    good = pq.read_table(path)
    ids, answers = good["id"].to_pylist(), good["answer"].to_pylist()
    last = planted.clean - 1
    ids[last], answers[last - 1] = ids[0], "several"
    for name, values in (("id", ids), ("answer", answers)):
        place = good.schema.get_field_index(name)
        good = good.set_column(place, good.schema.field(name), pa.array(values))
    pq.write_table(good, path)
    said = _stage(folder, "validate_problems", EXIT_GATE_FAILED)
    assert f"2 of {planted.clean} rows" in said, "both rows of the id that is there twice"
    assert f"row {last}, id={ids[0]}" in said
    assert (
        f"row {last - 1}, id={ids[last - 1]}, answer_form=text, where word_problems gives numbers, answer=several"
        in said
    )
