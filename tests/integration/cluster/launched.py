"""What the tests of the launchers share: the launcher as a process, the real training program made slow, and the run to compare with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from pipeline_lib.training.spec import JobSpec
from tests.small_project import build
from tests.unit.training.tiny import build_world, on_ranks

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 300

PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pipeline_lib.launch.job as job
from pipeline_lib.launch.{launcher} import {handle}
job.MODULE = {module!r}
{handle}.poll_seconds = 0.2
from pipeline_lib.errors import PipelineError
from pipeline_lib.launch import run_job
from pipeline_lib.training.spec import JobSpec
try:
    print(run_job(JobSpec.from_json(Path("spec.json").read_text())))
except PipelineError as error:
    print(f"{{type(error).__name__}}: {{error}}", file=sys.stderr)
    raise SystemExit(error.exit_code)
"""
SLOW_JOB = """
# The real training program; the first time, it stays at step 2 until it is told to stop.
import time
from pathlib import Path
from pipeline_lib.training import job
from pipeline_lib.training.context import JobContext
before = JobContext.leave_if_asked
def wait_at_two(self, step, *rest):
    told = Path(f"told-{self.world.rank}")
    if step == 2 and not told.exists():
        Path(f"at-two-{self.world.rank}").touch()
        while not self.preemption._asked:
            time.sleep(0.05)
        told.touch()
    before(self, step, *rest)
JobContext.leave_if_asked = wait_at_two
job.main()
"""

FIT = """
import json, os, pathlib, sys
from pipeline_lib.errors import PipelineError
from pipeline_lib.launch import run_job
from pipeline_lib.training.spec import JobSpec
try:
    run_job(JobSpec.from_json(pathlib.Path("spec.json").read_text()))
except PipelineError as error:
    pathlib.Path(os.environ["R1_EXIT_FILE"]).write_text(json.dumps({"exit_code": error.exit_code, "error": str(error)}))
    sys.exit(error.exit_code)
"""
FIT_STAGE = """
  train_r1_zero:
    cmd: python fit.py
    deps: [fit.py, spec.json, models/base, data/hard]
    outs: [models/r1_zero, plot.csv, rollouts.parquet]
"""
HELD_JOB = """
# The real training program; it stays at one step as long as a file is there.
import time
from pathlib import Path
from pipeline_lib.training import job
from pipeline_lib.training.context import JobContext
before = JobContext.leave_if_asked
def wait_while_held(self, step, *rest):
    before(self, step, *rest)
    while step == {step} and Path({hold!r}).exists():
        Path(f"held-{{self.world.rank}}").touch()
        time.sleep(0.05)
JobContext.leave_if_asked = wait_while_held
job.main()
"""


def training_stage(
    root: Path, spec: JobSpec, hold: Path | None = None, step: int = 0, first: str = ""
) -> Path:
    """A small project at `root` with a stage that is a real training job, held at `step` while there is a file `hold`.

    `first`: Python for the stage to begin with.
    """
    build(root)
    build_world(root)
    if hold is not None:
        (root / "heldjob.py").write_text(HELD_JOB.format(hold=str(hold), step=step))
        first += "import pipeline_lib.launch.job as job\njob.MODULE = 'heldjob'\n"
    (root / "fit.py").write_text(first + FIT)
    (root / "spec.json").write_text(spec.to_json())
    (root / "dvc.yaml").write_text((root / "dvc.yaml").read_text() + FIT_STAGE)
    return root


def parent_program(launcher: str, handle: str, module: str) -> str:
    """Python of a process that launches the job in spec.json and ends as a stage does. `handle`: the launcher's class of jobs."""
    return PARENT.format(root=str(ROOT), launcher=launcher, handle=handle, module=module)


def until(condition: Callable[[], object], why: str | Callable[[], str] = "waited too long") -> None:
    """Wait for it; AssertionError when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, why() if callable(why) else why
        time.sleep(0.05)


def slow_world(folder: Path, spec: JobSpec) -> tuple[Path, Path]:
    """(local, remote): a worktree in which two local ranks have run the job, and one for the launcher with `slowjob`."""
    local, remote = folder / "local", folder / "remote"
    for root in (local, remote):
        root.mkdir()
        build_world(root)
    on_ranks(2, lambda: _run_here(local, spec))
    (remote / "slowjob.py").write_text(SLOW_JOB)
    return local, remote


def both_wait(remote: Path) -> bool:
    """Both ranks of `slowjob` stay at step 2."""
    return all((remote / f"at-two-{rank}").exists() for rank in (0, 1))


def require_same_end(spec: JobSpec, local: Path, remote: Path, printed: str) -> None:
    """The launched job ended with the result and the bytes of the local one."""
    assert json.loads(printed.replace("'", '"')) == json.loads((local / "job" / "result.json").read_text())
    for path in (
        f"{spec.outputs['model']}/model.safetensors",
        spec.outputs["plot"],
        spec.outputs["rollouts"],
    ):
        assert (remote / path).read_bytes() == (local / path).read_bytes(), path


def _run_here(root: Path, spec: JobSpec) -> None:
    from pipeline_lib.training import job

    os.chdir(root)
    (root / "job").mkdir(exist_ok=True)
    (root / "job" / "spec.json").write_text(spec.to_json())
    job.run(root / "job")
