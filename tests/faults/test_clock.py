"""The wall clock is set while a job trains and while its stage waits: nothing ends early or late, the bytes are the same.

The clock of both processes is a real one with an offset that this test writes to a file (a `sitecustomize`, so that it holds
in every Python process that they start too). Not covered: compiled libraries, which read clocks of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline_lib.tracking.journal import SUFFIX
from pipeline_lib.tracking.run import _open_journal
from tests.faults.jobs import outputs
from tests.unit.training.tiny import build_world, grpo_spec

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400.0
CLOCK = """
import os, time
_seconds, _nanoseconds = time.time, time.time_ns
def _offset():
    with open(os.environ["TEST_CLOCK"]) as file:
        offset = float(file.read() or 0)
    if offset:
        with open(os.environ["TEST_CLOCK"] + ".read", "a") as file:
            file.write("x")
    return offset
time.time = lambda: _seconds() + _offset()
time.time_ns = lambda: _nanoseconds() + int(_offset() * 1e9)
"""
RUN = """
from pathlib import Path
from pipeline_lib.launch import run_job
from pipeline_lib.training.spec import JobSpec
run_job(JobSpec.from_json(Path("spec.json").read_text()))
"""
SPEC = grpo_spec(steps=8, kl_coef=0.01)
WALL_CLOCK = re.compile(r"\btime\.time(?:_ns)?\(|\bdatetime\.(?:now|utcnow|today)\(")
MAY_READ_IT = {
    "pipeline_lib/tracking/journal.py": "MLflow shows when something happened",
    "pipeline_lib/tracking/run.py": "names a journal; the order of names does not rest on the clock alone",
    "pipeline_lib/launch/kubernetes.py": "compared with times that the API server gives",
    "pipeline_lib/services/demo.py": "shows how long a run has taken",
}


def _train(root: Path, jumps: list[float]) -> dict[str, bytes]:
    """Run the job; at each checkpoint the clock jumps to the next offset."""
    root.mkdir()
    build_world(root)
    (root / "spec.json").write_text(SPEC.to_json(), encoding="utf-8")
    (root / "clock").mkdir()
    (root / "clock/sitecustomize.py").write_text(CLOCK, encoding="utf-8")
    clock = root / "clock/offset"
    clock.write_text("0")
    environment = {**os.environ, "PYTHONPATH": f"{root / 'clock'}:{ROOT}", "TEST_CLOCK": str(clock)}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    )
    for number, offset in enumerate(jumps):
        while process.poll() is None and not list(root.glob(f"checkpoints/*/step-{2 * number + 2:08d}")):
            time.sleep(0.01)
        temporary = clock.with_suffix(".part")
        temporary.write_text(str(offset))
        temporary.replace(clock)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0, errors
    assert bool(jumps) == (root / "clock/offset.read").exists(), "somebody has read the clock that was set"
    return outputs(root, SPEC)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    assert _train(tmp_path / "jumps", [30 * DAY, -30 * DAY]) == _train(tmp_path / "calm", [])


def test_no_deadline_rests_on_the_wall_clock() -> None:
    """Whoever reads it is listed here with the reason."""
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("pipeline_lib", "tasks", "dags")
        for path in (ROOT / folder).rglob("*.py")
        if WALL_CLOCK.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(MAY_READ_IT)


def test_a_clock_that_was_set_back_does_not_make_the_newest_journal_the_oldest(tmp_path: Path) -> None:
    ahead = time.time_ns() + int(DAY * 1e9)
    (tmp_path / f"stage+{ahead}{SUFFIX}").write_text("")
    journal, continued = _open_journal(tmp_path, "stage", "x")
    assert not continued
    assert int(journal.path.stem.rpartition("+")[2]) > ahead
