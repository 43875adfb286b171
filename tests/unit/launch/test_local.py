"""The local launcher with real processes: start, refuse, reattach, forward signals, tell errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.launch import launcher_named
from pipeline_lib.launch.base import AlreadyRunning, JobFailed, error_of
from pipeline_lib.launch.local import command, environment
from pipeline_lib.training.spec import JobSpec

PROGRAM = """
import json, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[-1])
spec = json.loads((folder / "spec.json").read_text())
behaviour = spec["section"]["behaviour"]
with Path("started").open("a") as file:
    file.write("x")
def stop(*_):
    print("Preempted: stopped on request", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGTERM, stop)
print("working", flush=True)
if behaviour == "crash":
    raise RuntimeError("boom at step 3")
if behaviour == "bad":
    print("DataError: the file is empty; fill it", flush=True)
    raise SystemExit(2)
if behaviour == "wait":
    while not Path("go").exists():
        time.sleep(0.02)
Path("model").write_text("weights")
(folder / "result.json").write_text('{"loss": 1.5}')
"""
PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pipeline_lib.launch.local as local
local.MODULE = "fakejob"
from pipeline_lib.training.spec import JobSpec
print(local.LAUNCHER.run(JobSpec.from_json(Path("spec.json").read_text())))
"""


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A worktree whose training program is a small stand-in: these tests are about processes, not training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakejob.py").write_text(PROGRAM)
    (tmp_path / "input").write_text("data")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("pipeline_lib.launch.local.MODULE", "fakejob")
    return tmp_path


def _spec(behaviour: str = "ok", **engine) -> JobSpec:
    return JobSpec(
        kind="sft",
        stage="train_cold_start_sft",
        seed=1,
        section={"behaviour": behaviour},
        engine={"launcher": "local", "world_size": 1, "threads": 1, **engine},
        inputs={"model": "input"},
        outputs={"model": "model"},
    )


def _parent(world: Path, spec: JobSpec) -> subprocess.Popen[str]:
    (world / "spec.json").write_text(spec.to_json())
    root = str(Path(__file__).resolve().parents[3])
    return subprocess.Popen(
        [sys.executable, "-c", PARENT.format(root=root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=world,
    )


def _until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_job_runs_and_leaves_nothing_but_its_outputs(world, capfd):
    from pipeline_lib.launch import run_job

    assert run_job(_spec()) == {"loss": 1.5}
    assert (world / "model").read_text() == "weights"
    assert list((world / "checkpoints").iterdir()) == []
    assert "working" in capfd.readouterr().err


def test_a_crash_shows_the_end_of_the_log(world):
    with pytest.raises(JobFailed, match="boom at step 3"):
        launcher_named("local").run(_spec("crash"))


def test_bad_input_is_one_line(world):
    with pytest.raises(DataError, match=r"^the file is empty; fill it$"):
        launcher_named("local").run(_spec("bad"))


def test_a_missing_input_is_told_before_anything_starts(world):
    with pytest.raises(DataError, match="nothing_here"):
        launcher_named("local").run(replace(_spec(), inputs={"model": "nothing_here"}))
    assert not (world / "started").exists()


def test_an_unknown_launcher_names_the_field():
    with pytest.raises(ConfigError, match=r"engine\.launcher"):
        launcher_named("cloud")


def test_a_second_copy_is_refused(world):
    parent = _parent(world, _spec("wait"))
    _until((world / "started").exists)
    with pytest.raises(AlreadyRunning):
        launcher_named("local").run(_spec("wait"))
    (world / "go").touch()
    out, err = parent.communicate(timeout=60)
    assert parent.returncode == 0, err
    assert "1.5" in out
    assert (world / "started").read_text() == "x"


def test_a_new_parent_reattaches_to_the_orphan(world, capfd):
    parent = _parent(world, _spec("wait"))
    _until((world / "started").exists)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    second = _parent(world, _spec("wait"))
    time.sleep(1.0)
    assert second.poll() is None
    (world / "go").touch()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "already running" in err
    assert "1.5" in out
    assert (world / "started").read_text() == "x", "a second copy was started"


def test_sigterm_reaches_the_job_and_comes_back_as_preempted(world):
    parent = _parent(world, _spec("wait"))
    _until((world / "started").exists)
    time.sleep(0.3)
    os.kill(parent.pid, signal.SIGTERM)
    _, err = parent.communicate(timeout=60)
    assert "Preempted: stopped on request" in err
    folder = next((world / "checkpoints").iterdir())
    assert (folder / "spec.json").exists(), "the checkpoints must stay"


def test_a_finished_job_is_not_run_again_when_its_parent_missed_the_end(world):
    parent = _parent(world, _spec("wait"))
    _until((world / "started").exists)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    (world / "go").touch()
    folder = next((world / "checkpoints").iterdir())
    _until((folder / "result.json").exists)
    time.sleep(0.2)
    assert launcher_named("local").run(_spec("wait")) == {"loss": 1.5}
    assert (world / "started").read_text() == "x"


def test_several_ranks_go_through_the_deepspeed_launcher(tmp_path):
    line = command(_spec(world_size=2), tmp_path)
    assert "deepspeed.launcher.runner" in line
    assert line[line.index("--num_accelerators") + 1] == "2"
    assert line[line.index("--master_addr") + 1] == "127.0.0.1"


def test_threads_are_shared_among_ranks():
    assert environment(_spec(threads=3))["OMP_NUM_THREADS"] == "3"
    cores = len(os.sched_getaffinity(0))
    assert environment(_spec(threads=0, world_size=2))["OMP_NUM_THREADS"] == str(max(cores // 2, 1))


def test_exit_codes_become_errors(tmp_path):
    (tmp_path / "job.log").write_text("x\nPreempted: step 5\n")
    assert error_of(75, tmp_path, "s").exit_code == 75
    assert error_of(2, tmp_path, "s").exit_code == 2
    assert error_of(137, tmp_path, "s").exit_code == 1
    assert json.dumps(str(error_of(137, tmp_path, "s")))
