"""A training job killed, stopped or out of disk at any moment, and started again, ends as if nothing had happened: byte for byte."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Process
from pathlib import Path

import pytest

from pipeline_lib.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED
from pipeline_lib.orchestration.runner import STOP_GRACE_S
from pipeline_lib.training.checkpoint import verify
from pipeline_lib.training.spec import JobSpec
from tests.faults import launched
from tests.faults.jobs import outputs, reward_spec
from tests.unit.training.tiny import (
    build_world,
    finish_job,
    grpo_spec,
    on_ranks,
    sft_spec,
    start_job,
)

PATIENCE_S = 300.0
"""How long something that a test waits for may take on a busy machine."""
RANK_KILL_SEED = 1


def _world(path: Path) -> Path:
    path.mkdir()
    build_world(path)
    return path


def _wait_for(path: Path, process: Process) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert process.is_alive(), f"the job ended before {path.name} was there"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _end(process: Process, within_s: float = PATIENCE_S) -> int | None:
    """The exit code of a job that ends within so many seconds."""
    process.join(within_s)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail(f"the job has not ended within {within_s:.0f} s")
    return process.exitcode


def _kill_after(root: Path, spec: JobSpec, checkpoint: str) -> None:
    """kill -9 as soon as the given checkpoint appears, so somewhere in the steps after it."""
    process = start_job(root, spec)
    _wait_for(root / "job" / checkpoint, process)
    os.kill(process.pid, signal.SIGKILL)
    assert _end(process) == -signal.SIGKILL


SPECS = {
    "grpo": (grpo_spec(steps=6, kl_coef=0.01, minibatches=2, reference_refresh_steps=3), "step-00000002"),
    "dapo": (grpo_spec(steps=5, algorithm="dapo"), "step-00000002"),
    "ppo": (grpo_spec(steps=5, algorithm="ppo"), "step-00000002"),
    "sft": (sft_spec(), "step-00000004"),
    "the first reward model": (reward_spec(), "helpfulness/step-00000004"),
    "the second reward model": (reward_spec(), "safety/step-00000004"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SPECS))
def test_kill_and_resume_is_bit_identical(tmp_path, name):
    spec, checkpoint = SPECS[name]
    whole, killed = _world(tmp_path / "whole"), _world(tmp_path / "killed")
    finish_job(whole, spec)
    _kill_after(killed, spec, checkpoint)
    finish_job(killed, spec)
    assert outputs(killed, spec) == outputs(whole, spec)


STOPPED = {
    "grpo": (grpo_spec(steps=8, checkpoint_every=100), 2, ""),
    "sft": (sft_spec(checkpoint_every=100), 2, ""),
    "reward_models": (reward_spec(epochs=1, checkpoint_every=100), 8, "safety"),
}
"""The job, the step it is stopped after (of both reward models together), the folder of its checkpoint."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STOPPED))
def test_sigterm_checkpoints_within_its_grace_and_leaves_with_75(tmp_path, kind):
    """The grace is the one a stage gets (`runner.STOP_GRACE_S`, 30 s). A step of these models takes a second at most."""
    spec, step, folder = STOPPED[kind]
    whole, stopped = _world(tmp_path / "whole"), _world(tmp_path / "stopped")
    finish_job(whole, spec)
    process = start_job(stopped, spec, prepare=_slow_steps)
    _wait_for(stopped / f"reached-{step}", process)
    os.kill(process.pid, signal.SIGTERM)
    assert _end(process, within_s=STOP_GRACE_S) == EXIT_PREEMPTED
    (checkpoint,) = (stopped / "job").rglob("step-*")
    assert checkpoint.parent == stopped / "job" / folder
    assert not (stopped / "job" / "result.json").exists()
    finish_job(stopped, spec)
    assert outputs(stopped, spec) == outputs(whole, spec)


def _slow_steps() -> None:
    """Steps of a tiny model are over before a signal arrives; this leaves it time, and says how many there were."""
    from pipeline_lib.training.progress import Progress

    before, reached = Progress.step, 0

    def slow(self, done, row):
        nonlocal reached
        reached += 1
        Path(f"reached-{reached}").touch()
        time.sleep(0.7)
        before(self, done, row)

    Progress.step = slow


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_one_before_used(tmp_path, capfd):
    spec = grpo_spec(steps=7)
    whole, damaged = _world(tmp_path / "whole"), _world(tmp_path / "damaged")
    finish_job(whole, spec)
    _kill_after(damaged, spec, "step-00000004")
    newest = sorted((damaged / "job").glob("step-*"))[-1]
    shard = max(newest.rglob("*.pt"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-100])
    finish_job(damaged, spec)
    assert "damaged" in capfd.readouterr().err
    assert outputs(damaged, spec) == outputs(whole, spec)


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system (tmpfs) of so many bytes, there for this test only.

    A process holds the mount in a namespace of its own, as an ordinary user may; its root, seen through /proc, is the way in.
    """
    folder.mkdir()
    own = ("unshare", "--mount") if os.getuid() == 0 else ("unshare", "--user", "--map-root-user", "--mount")
    hold = f"mount -t tmpfs -o size={size} small {folder} && echo mounted && exec sleep 600"
    holder = subprocess.Popen([*own, "sh", "-c", hold], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n"
        yield Path(f"/proc/{holder.pid}/root{folder}")
    finally:
        holder.kill()
        holder.wait()


def _size(folder: Path) -> int:
    """In whole pages, as tmpfs counts."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_a_disk_that_fills_up_in_mid_checkpoint_ends_the_job_with_one_line_and_the_checkpoint_before(
    tmp_path, capfd, share
):
    """ENOSPC of a real file system: two checkpoints fit, and of the third that share."""
    spec = grpo_spec(steps=8)
    whole, full = _world(tmp_path / "whole"), _world(tmp_path / "full")
    finish_job(whole, spec)
    checkpoint = _size(max((whole / "job").glob("step-*")))
    with _small_disk(tmp_path / "disk", 10 * checkpoint) as disk:
        (full / "job").symlink_to(disk)
        others = disk / "of-somebody-else"
        others.write_bytes(bytes(int((8 - share) * checkpoint) // 4096 * 4096))
        process = start_job(full, spec)
        assert _end(process) == EXIT_BAD_INPUT
        said = capfd.readouterr().out
        (line,) = [line for line in said.splitlines() if line.startswith("StorageError: ")]
        assert "job/step-00000006: the disk is full: " in line
        assert "free some space" in line
        assert "Traceback" not in said
        steps = sorted((full / "job").glob("step-*"))
        assert [path.name for path in steps] == ["step-00000002", "step-00000004"]
        for path in steps:
            verify(path)
        others.unlink()
        finish_job(full, spec)
        assert outputs(full, spec) == outputs(whole, spec)
        assert not list((full / "job").glob(".partial-*"))


@pytest.mark.slow
def test_a_limit_on_file_sizes_ends_the_job_with_one_line_and_its_last_checkpoint(tmp_path, capfd):
    """No file may grow beyond 50 kB (RLIMIT_FSIZE), which a checkpoint does and the captured output not."""
    spec = grpo_spec(steps=8)
    whole, full = _world(tmp_path / "whole"), _world(tmp_path / "full")
    finish_job(whole, spec)
    process = start_job(full, spec, prepare=_slow_steps)
    _wait_for(full / "job" / "step-00000002", process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    ended = _end(process)
    captured = capfd.readouterr()
    said = captured.out
    assert ended == EXIT_BAD_INPUT, captured.err
    assert "the disk is full" in said
    assert "Traceback" not in said
    assert "step-00000002" in [path.name for path in (full / "job").iterdir()]
    finish_job(full, spec)
    assert outputs(full, spec) == outputs(whole, spec)
    assert not list((full / "job").glob(".partial-*"))


def _run_here(root: Path, spec: JobSpec) -> None:
    """The job on this rank."""
    from pipeline_lib.training import job

    os.chdir(root)
    folder = root / "job"
    folder.mkdir(exist_ok=True)
    draft = folder / f"spec-{os.getpid()}"  # the other rank may be reading
    draft.write_text(spec.to_json())
    draft.replace(folder / "spec.json")
    job.run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_a_rank_killed_in_mid_step_ends_the_other_and_both_resume_exactly(tmp_path, zero):
    """The DeepSpeed launcher runs both ranks, notes that one was killed, and ends the other; the retry needs neither."""
    spec = grpo_spec(steps=60, kl_coef=0.01, engine={"world_size": 2, "zero_stage": zero})
    whole = launched.world_with(tmp_path / "whole", spec)
    killed = launched.world_with(tmp_path / "killed", spec)
    on_ranks(2, lambda: _run_here(whole, spec))

    draw = random.Random(10 * RANK_KILL_SEED + zero)
    process = launched.start(killed)
    launched.wait_for_checkpoint(killed, process, 2)
    pid = launched.pid_of(killed, draw.randrange(2))
    time.sleep(draw.uniform(0.0, 0.5))
    os.kill(pid, signal.SIGKILL)
    code, said = launched.end(process)
    assert code == 1, said  # neither 2 nor 3: it is retried
    assert "train_r1_zero ended with exit code 137" in said
    assert launched.processes_in(killed) == []
    (folder,) = (killed / "checkpoints").iterdir()
    assert not (folder / "result.json").exists()

    folder.rename(killed / "job")
    on_ranks(2, lambda: _run_here(killed, spec))
    assert outputs(killed, spec) == outputs(whole, spec)
