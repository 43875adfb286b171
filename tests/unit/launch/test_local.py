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

from pipeline_lib.errors import ConfigError, DataError, Preempted
from pipeline_lib.launch import launcher_named, run_job
from pipeline_lib.launch.base import AlreadyRunning, JobFailed, Status
from pipeline_lib.launch.job import KEEP_MEMORY, TUNABLES, Job, LogReader, describe
from pipeline_lib.launch.local import LocalJob, command, environment
from pipeline_lib.launch.waiting import error_of
from pipeline_lib.training.spec import JobSpec

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[-1])
spec = json.loads((folder / "spec.json").read_text())
behaviour = spec["section"]["behaviour"]
if behaviour.startswith("rank 0: "):
    behaviour = behaviour.removeprefix("rank 0: ") if os.environ["RANK"] == "0" else "wait"
    while os.environ["RANK"] == "0" and not Path("started").exists():
        time.sleep(0.02)
def stop(*_):
    print("Preempted: stopped on request", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGTERM, stop)
with Path("started").open("a") as file:
    file.write("x")
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
while behaviour == "linger" and not Path("go").exists():
    time.sleep(0.02)
"""
PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pipeline_lib.launch.job as job
job.MODULE = "fakejob"
from pipeline_lib.launch import run_job
from pipeline_lib.training.spec import JobSpec
print(run_job(JobSpec.from_json(Path("spec.json").read_text())))
"""


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """A worktree whose training program is a small stand-in: these tests are about processes, not training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakejob.py").write_text(PROGRAM)
    (tmp_path / "input").write_text("data")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("pipeline_lib.launch.job.MODULE", "fakejob")
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


def _job(folder: Path, **engine) -> Job:
    return describe(_spec(**engine), folder, folder)


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


def _end_under_a_new_parent(world: Path, spec: JobSpec) -> None:
    """Another launcher finds the job, which is let go, and returns its result."""
    second = _parent(world, spec)
    assert second.stderr is not None
    assert "already running" in second.stderr.readline()
    (world / "go").touch()
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "1.5" in out


def _until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_a_job_runs_and_leaves_nothing_but_its_outputs(world, capfd):
    assert run_job(_spec()) == {"loss": 1.5}
    assert (world / "model").read_text() == "weights"
    assert list((world / "checkpoints").iterdir()) == []
    assert "working" in capfd.readouterr().err


def test_a_crash_shows_the_end_of_the_log(world):
    with pytest.raises(JobFailed, match="boom at step 3"):
        run_job(_spec("crash"))


def test_bad_input_is_one_line(world):
    with pytest.raises(DataError, match=r"^the file is empty; fill it$"):
        run_job(_spec("bad"))


def test_one_rank_with_bad_input_is_not_hidden_by_the_others_that_were_told_to_stop(world, capfd):
    with pytest.raises(DataError, match=r"^the file is empty; fill it$"):
        run_job(_spec("rank 0: bad", world_size=2))
    assert "Preempted: stopped on request" in capfd.readouterr().err, "the other rank was not told to stop"


def test_one_rank_that_crashes_is_not_hidden_by_the_others_that_were_told_to_stop(world, capfd):
    with pytest.raises(JobFailed, match=r"exit code 1[\s\S]*boom at step 3"):
        run_job(_spec("rank 0: crash", world_size=2))
    assert "Preempted: stopped on request" in capfd.readouterr().err, "the other rank was not told to stop"


def test_two_ranks_and_their_launcher_stopped_together_were_preempted(world):
    parent = _parent(world, _spec("wait", world_size=2))
    _until(lambda: (world / "started").exists() and (world / "started").read_text() == "xx")
    os.killpg(json.loads(next(world.rglob("process.json")).read_text())["pid"], signal.SIGTERM)
    _, err = parent.communicate(timeout=60)
    assert "Preempted: stopped on request" in err.splitlines()[-1], err


def test_a_missing_input_is_told_before_anything_starts(world):
    with pytest.raises(DataError, match="nothing_here"):
        run_job(replace(_spec(), inputs={"model": "nothing_here"}))
    assert not (world / "started").exists()


def test_an_unknown_launcher_names_the_field():
    with pytest.raises(ConfigError, match=r"engine\.launcher"):
        launcher_named("cloud")


def test_a_second_copy_is_refused(world):
    parent = _parent(world, _spec("wait"))
    _until((world / "started").exists)
    with pytest.raises(AlreadyRunning):
        run_job(_spec("wait"))
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
    _end_under_a_new_parent(world, _spec("wait"))
    assert (world / "started").read_text() == "x", "a second copy was started"


def test_outputs_cleared_away_under_a_job_that_was_found_again_are_made_again(world, capfd):
    """dvc removes a stage's outputs before each attempt; a job whose launcher died may have written them by then."""
    parent = _parent(world, _spec("linger"))
    _until(lambda: list(world.glob("checkpoints/*/result.json")))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    (world / "model").unlink()
    _end_under_a_new_parent(world, _spec("linger"))
    assert (world / "model").read_text() == "weights"
    assert (world / "started").read_text() == "xx"


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
    assert run_job(_spec("wait")) == {"loss": 1.5}
    assert (world / "started").read_text() == "x"


def test_a_rank_that_ends_while_it_is_told_to_stop_does_not_keep_the_others_from_hearing_of_it(
    world, monkeypatch
):
    gone = subprocess.Popen(["true"])
    gone.wait()
    with subprocess.Popen(["sleep", "60"]) as living:
        monkeypatch.setattr("pipeline_lib.launch.local.ranks_of", lambda *_: [gone.pid, living.pid])
        with (world / "lock").open("a+") as lock:
            LocalJob(_job(world), lock, process=None).stop()
        assert living.wait(timeout=60) == -signal.SIGTERM


def test_several_ranks_go_through_the_deepspeed_launcher(tmp_path):
    line = command(_job(tmp_path, world_size=2))
    assert "deepspeed.launcher.runner" in line
    assert line[line.index("--num_accelerators") + 1] == "2"
    assert line[line.index("--master_addr") + 1] == "127.0.0.1"


def test_threads_are_shared_among_ranks(tmp_path):
    assert environment(_job(tmp_path, threads=3))["OMP_NUM_THREADS"] == "3"
    cores = len(os.sched_getaffinity(0))
    assert environment(_job(tmp_path, threads=0, world_size=2))["OMP_NUM_THREADS"] == str(max(cores // 2, 1))


def test_a_job_keeps_the_memory_that_a_step_frees(tmp_path, monkeypatch):
    """glibc takes every part of the setting, and a setting of one's own wins, the empty one too."""
    monkeypatch.delenv(TUNABLES, raising=False)
    kept = environment(_job(tmp_path))
    assert kept[TUNABLES] == KEEP_MEMORY
    faults = (
        "import resource\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "bytearray(1 << 26); before = faults(); bytearray(1 << 26); print(faults() - before)"
    )
    for env, few in ((kept, True), ({**kept, TUNABLES: ""}, False)):
        done = subprocess.run(
            [sys.executable, "-c", faults], env=env, capture_output=True, text=True, check=True
        )
        assert (int(done.stdout) < 100) is few, done.stdout
    monkeypatch.setenv(TUNABLES, "")
    assert environment(_job(tmp_path))[TUNABLES] == ""


@pytest.mark.parametrize(
    ("code", "log", "error"),
    [
        (75, "x\nPreempted: step 5\n", Preempted),
        (1, "RuntimeError: a rank\nPreempted: the others\n", JobFailed),
        (2, "DataError: empty\n", DataError),
        (2, "DataError: empty\nPreempted: the others\n", DataError),
        (75, "Preempted: step 5\nStorageError: of another rank\n", Preempted),
        (137, "killed\n", JobFailed),
        (None, "working\n", JobFailed),
    ],
)
def test_exit_codes_and_last_words_become_errors(tmp_path, code, log, error):
    (tmp_path / "job.log").write_text(log)
    told = error_of(Status("ended", code), tmp_path, "s")
    assert type(told) is error
    assert error is JobFailed or str(told) in ("step 5", "empty")


def test_a_preemption_says_why_the_queue_made_it_and_what_the_ranks_said(tmp_path):
    (tmp_path / "job.log").write_text("Preempted: stopped at step 5\n")
    told = error_of(Status("ended", 75, "job 7 was stopped: its node failed"), tmp_path, "s")
    assert str(told) == "job 7 was stopped: its node failed (stopped at step 5)"


def test_a_log_is_read_on_and_read_anew_when_it_is_begun_anew(tmp_path):
    read, log = LogReader(tmp_path / "log"), tmp_path / "log"
    assert read() == ""
    log.write_bytes("a\n中".encode()[:-1])
    assert read() == "a\n"
    log.write_bytes("a\n中\n".encode())
    assert read() == "中\n"
    log.write_text("b")
    assert read() == "b"
