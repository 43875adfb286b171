"""A training job killed at any moment and started again ends as if nothing had happened: byte for byte."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from pipeline_lib.errors import EXIT_BAD_INPUT
from tests.unit.training.tiny import build_world, finish_job, grpo_spec, on_ranks, sft_spec, start_job


def _outputs(root: Path, spec) -> dict[str, bytes]:
    files = {"csv": root / "plot.csv", "model": root / spec.outputs["model"] / "model.safetensors"}
    files["result"] = root / "job" / "result.json"
    if "rollouts" in spec.outputs:
        files["rollouts"] = root / spec.outputs["rollouts"]
    return {name: path.read_bytes() for name, path in files.items()}


def _world(path: Path) -> Path:
    path.mkdir()
    build_world(path)
    return path


def _kill_after(root: Path, spec, checkpoint: int) -> None:
    """kill -9 as soon as the given checkpoint appears, so somewhere in the steps after it."""
    process = start_job(root, spec)
    deadline = time.monotonic() + 300
    while not (root / "job" / f"step-{checkpoint:08d}").exists():
        assert process.is_alive(), "the job ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


SPECS = {
    "grpo": (grpo_spec(steps=6, kl_coef=0.01, minibatches=2, reference_refresh_steps=3), 2),
    "dapo": (grpo_spec(steps=5, algorithm="dapo"), 2),
    "ppo": (grpo_spec(steps=5, algorithm="ppo"), 2),
    "sft": (sft_spec(), 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SPECS))
def test_kill_and_resume_is_bit_identical(tmp_path, name):
    spec, checkpoint = SPECS[name]
    whole, killed = _world(tmp_path / "whole"), _world(tmp_path / "killed")
    finish_job(whole, spec)
    _kill_after(killed, spec, checkpoint)
    finish_job(killed, spec)
    assert _outputs(killed, spec) == _outputs(whole, spec)


@pytest.mark.slow
def test_sigterm_checkpoints_and_leaves_with_75(tmp_path):
    spec = grpo_spec(steps=8, checkpoint_every=100)
    whole, stopped = _world(tmp_path / "whole"), _world(tmp_path / "stopped")
    finish_job(whole, spec)
    process = start_job(stopped, spec, prepare=_slow_steps)
    time.sleep(2.0)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75
    assert len(list((stopped / "job").glob("step-*"))) == 1
    assert not (stopped / "job" / "result.json").exists()
    finish_job(stopped, spec)
    assert _outputs(stopped, spec) == _outputs(whole, spec)


def _slow_steps() -> None:
    """Steps of a tiny model are over before a signal arrives; this leaves it time."""
    from pipeline_lib.training.progress import Progress

    before = Progress.step

    def slow(self, done, row):
        time.sleep(0.7)
        before(self, done, row)

    Progress.step = slow


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_one_before_used(tmp_path, capfd):
    spec = grpo_spec(steps=7)
    whole, damaged = _world(tmp_path / "whole"), _world(tmp_path / "damaged")
    finish_job(whole, spec)
    _kill_after(damaged, spec, 4)
    newest = sorted((damaged / "job").glob("step-*"))[-1]
    shard = max(newest.rglob("*.pt"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-100])
    finish_job(damaged, spec)
    assert "damaged" in capfd.readouterr().err
    assert _outputs(damaged, spec) == _outputs(whole, spec)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_job_with_one_line_and_its_last_checkpoint(tmp_path, capfd):
    """Full at file level: no file may grow beyond 50 kB (RLIMIT_FSIZE), which a checkpoint does and the captured output not."""
    spec = grpo_spec(steps=8)
    whole, full = _world(tmp_path / "whole"), _world(tmp_path / "full")
    finish_job(whole, spec)
    process = start_job(full, spec, prepare=_slow_steps)
    while not (full / "job" / "step-00000002").exists():
        assert process.is_alive()
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    process.join()
    captured = capfd.readouterr()
    said = captured.out
    assert process.exitcode == EXIT_BAD_INPUT, captured.err
    assert "the disk is full" in said
    assert "Traceback" not in said
    assert "step-00000002" in [path.name for path in (full / "job").iterdir()]
    finish_job(full, spec)
    assert _outputs(full, spec) == _outputs(whole, spec)
    assert not list((full / "job").glob(".partial-*"))


def _run_here(root: Path, spec, *, stop_after: int | None = None) -> None:
    """The job on this rank; `stop_after`: gone without a word once that checkpoint is written, as by kill -9."""
    from pipeline_lib.training import job
    from pipeline_lib.training.checkpoint import CheckpointStore

    os.chdir(root)
    folder = root / "job"
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.to_json())
    save = CheckpointStore.save

    def save_and_stop(self, step, *rest):
        save(self, step, *rest)
        if step == stop_after:
            raise KeyboardInterrupt

    CheckpointStore.save = save_and_stop
    job.run(folder)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 2, 3])
def test_two_ranks_resume_exactly(tmp_path, zero):
    spec = grpo_spec(steps=4, kl_coef=0.01, engine={"world_size": 2, "zero_stage": zero})
    whole, stopped = _world(tmp_path / "whole"), _world(tmp_path / "stopped")
    on_ranks(2, lambda: _run_here(whole, spec))
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
        on_ranks(2, lambda: _run_here(stopped, spec, stop_after=2))
    assert (stopped / "job" / "step-00000002").exists()
    on_ranks(2, lambda: _run_here(stopped, spec))
    assert _outputs(stopped, spec) == _outputs(whole, spec)
