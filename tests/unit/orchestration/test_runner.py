"""One stage in its own process group: exit codes, cache, kills. With the real dvc, which takes 2 s a call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from pipeline_lib.orchestration import processes
from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.orchestration.runner import StageFailed, StageRun

pytestmark = pytest.mark.slow

STAGE = """
import json, os, pathlib, signal, subprocess, sys, time
what = pathlib.Path("what").read_text().strip()
print("stage says", what, flush=True)
if what.startswith("exit "):
    pathlib.Path(os.environ["R1_EXIT_FILE"]).write_text(json.dumps({"exit_code": int(what[5:]), "error": "row 7 is bad"}))
    sys.exit(int(what[5:]))
if what == "traceback":
    raise RuntimeError("boom")
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("will not stop", flush=True)
    time.sleep(600)
if what == "wait":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pathlib.Path("started").touch()
    time.sleep(600)
pathlib.Path("out").write_text(what)
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stage")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text("stages: {s: {cmd: python stage.py, deps: [what], outs: [out]}}")
    (root / ".gitignore").write_text("/out\n/.run/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    return root


def run(repo: Path, what: str) -> tuple[StageRun, list[str]]:
    (repo / "what").write_text(what)
    lines: list[str] = []
    return StageRun(repo, "s"), lines


def waited_for_elsewhere(stage: StageRun, lines: list[str]) -> tuple[threading.Thread, list[StageFailed]]:
    """A thread that waits for the stage, and how the stage failed, once it has."""
    failures: list[StageFailed] = []

    def wait() -> None:
        try:
            stage.wait(lines.append)
        except StageFailed as failure:
            failures.append(failure)

    waiting = threading.Thread(target=wait)
    waiting.start()
    return waiting, failures


def until_said(lines: list[str], words: str) -> None:
    deadline = time.monotonic() + 60
    while not any(words in line for line in lines):
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


def test_computed_then_unchanged_then_restored(repo):
    stage, lines = run(repo, "one")
    assert stage.wait(lines.append).how is How.COMPUTED
    assert "stage says one" in lines
    assert StageRun(repo, "s").wait(lines.append).how is How.UNCHANGED
    stage, _ = run(repo, "two")
    stage.wait(lines.append)
    stage, _ = run(repo, "one")
    assert stage.wait(lines.append).how is How.RESTORED
    assert (repo / "out").read_text() == "one"


def test_a_damaged_cache_object_is_cast_out_and_the_stage_computed_again(repo):
    """DVC links an output it knows to its cache, even when it has just been computed, and does not look at the bytes."""
    stage, lines = run(repo, "precious")
    stage.wait(lines.append)
    (stored,) = [
        file
        for file in (repo / ".dvc/cache/files").rglob("*")
        if file.is_file() and file.read_text() == "precious"
    ]
    stored.chmod(0o644)
    stored.write_text("rotten!!")
    stored.chmod(0o444)
    (repo / "out").unlink()
    lines.clear()
    StageRun(repo, "s").wait(lines.append)
    assert (repo / "out").read_text() == stored.read_text() == "precious"
    assert any("1 damaged objects of the DVC cache" in line for line in lines)
    assert StageRun(repo, "s").wait(lines.append).how is How.UNCHANGED


@pytest.mark.parametrize(("code", "retry"), [(2, False), (3, False), (75, True), (1, True)])
def test_the_stages_own_exit_code_and_words_are_found_again(repo, code, retry):
    stage, lines = run(repo, f"exit {code}")
    with pytest.raises(StageFailed) as failure:
        stage.wait(lines.append)
    assert failure.value.exit_code == code
    assert failure.value.retry is retry
    assert str(failure.value) == "s: row 7 is bad"


def test_a_crash_shows_its_traceback(repo):
    stage, lines = run(repo, "traceback")
    with pytest.raises(StageFailed, match="RuntimeError: boom") as failure:
        stage.wait(lines.append)
    assert failure.value.exit_code == 1


def test_a_kill_is_a_signal_and_retried(repo):
    stage, lines = run(repo, "killed")
    with pytest.raises(StageFailed, match="signal 9") as failure:
        stage.wait(lines.append)
    assert failure.value.retry


def test_stop_ends_everything_also_what_left_the_group(repo):
    stage, lines = run(repo, "wait")
    stopper = threading.Thread(target=_when_started, args=(repo, lambda: stage.stop(grace_s=5)))
    stopper.start()
    with pytest.raises(StageFailed):
        stage.wait(lines.append)
    stopper.join()
    assert processes.members((), f"{processes.STAGE_MARK}={repo}:s") == set()


def test_nothing_survives_a_worker_that_is_killed(repo):
    (repo / "what").write_text("wait")
    code = f"from pathlib import Path; from pipeline_lib.orchestration.runner import StageRun; StageRun(Path({str(repo)!r}), 's').wait(print)"
    project = Path(__file__).resolve().parents[3]
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=project, stdout=subprocess.DEVNULL)
    _when_started(repo, lambda: os.kill(worker.pid, signal.SIGKILL))
    worker.wait()
    mark = f"{processes.STAGE_MARK}={repo}:s"
    deadline = time.monotonic() + 60
    while processes.members((), mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes.members((), mark) == set()


def test_a_new_attempt_first_stops_what_an_earlier_one_left(repo):
    sleeper = subprocess.Popen(["sleep", "600"], env={**os.environ, processes.STAGE_MARK: f"{repo}:s"})
    _wait_until_it_runs(sleeper)
    stage, lines = run(repo, "three")
    stage.wait(lines.append)
    assert sleeper.wait(timeout=5) == -signal.SIGTERM
    assert any("an earlier attempt of s still runs" in line for line in lines)


def test_a_lock_table_that_a_killed_dvc_left_half_written_is_mended(repo):
    table = repo / ".dvc" / "tmp" / "rwlock"
    table.write_text("")
    stage, lines = run(repo, "four")
    stage.wait(lines.append)
    assert (repo / "out").read_text() == "four"
    assert any("half written" in line for line in lines)


@pytest.fixture
def zombie():
    """A process that has ended and that nobody has reaped."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


@pytest.fixture
def dvc_of_another_stage(repo):
    """A dvc of the same worktree that lives, as far as one can see."""
    code = "import time; time.sleep(600)  # dvc repro --single-item other"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=repo)
    _wait_until_it_runs(process)
    yield process.pid
    process.kill()
    process.wait()


def _wait_until_it_runs(process: subprocess.Popen[bytes]) -> None:
    """Popen returns in the middle of the exec: the new program's arguments and environment are in place a moment later."""
    deadline = time.monotonic() + 60
    while not Path(f"/proc/{process.pid}/environ").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_dead_holder_of_the_lock_table_blocks_nobody_and_a_living_one_stays(
    repo, zombie, dvc_of_another_stage
):
    """dvc asks whether any process has the pid: a zombie has, and after a restart of the machine a stranger has."""
    table = repo / ".dvc" / "tmp" / "rwlock"
    stranger = os.getpid()
    holders = [{"pid": pid, "cmd": "dvc repro s"} for pid in (zombie, stranger, dvc_of_another_stage)]
    other = str(repo / "other")
    table.write_text(
        json.dumps(
            {
                "write": {str(repo / "out"): holders[0], other: holders[2]},
                "read": {str(repo / "what"): holders, str(repo / "out"): [holders[1]]},
            }
        )
    )
    stage, lines = run(repo, "five")
    stage.wait(lines.append)
    assert (repo / "out").read_text() == "five"
    assert any(
        f"removed what killed dvc processes (pids {sorted((zombie, stranger))})" in line for line in lines
    )
    left = json.loads(table.read_text())
    assert left["write"][other] == holders[2]
    assert left["read"][str(repo / "what")] == [holders[2]]


def _held(repo: Path, pid: int) -> None:
    """The living process `pid` writes what our stage reads, as dvc's table says it."""
    held = {"write": {str(repo / "what"): {"pid": pid, "cmd": "dvc repro other"}}, "read": {}}
    (repo / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(held))


def test_a_stage_waits_for_another_one_that_writes_what_it_reads(repo, dvc_of_another_stage):
    stage, lines = run(repo, "six")
    _held(repo, dvc_of_another_stage)
    waiting = threading.Thread(target=stage.wait, args=(lines.append,))
    waiting.start()
    until_said(lines, "s waits for that stage")
    os.kill(dvc_of_another_stage, signal.SIGKILL)
    waiting.join(timeout=60)
    assert (repo / "out").read_text() == "six"


def test_a_stage_that_waits_for_another_one_can_be_stopped(repo, dvc_of_another_stage):
    stage, lines = run(repo, "seven")
    _held(repo, dvc_of_another_stage)
    waiting, failures = waited_for_elsewhere(stage, lines)
    until_said(lines, "s waits for that stage")
    stage.stop(grace_s=1)
    waiting.join(timeout=30)
    assert "is busy" in str(failures[0])
    assert failures[0].retry


def test_the_grace_of_a_stage_that_is_stopped_is_the_workers_to_set(repo, monkeypatch):
    """A stage that ignores SIGTERM lives as long as its grace."""
    monkeypatch.setenv("R1_STOP_GRACE_SECONDS", "2.5")
    stage, lines = run(repo, "stubborn")
    waiting, failures = waited_for_elsewhere(stage, lines)
    until_said(lines, "will not stop")
    began = time.monotonic()
    stage.stop()
    assert 2.4 < time.monotonic() - began < 20
    waiting.join(timeout=30)
    assert len(failures) == 1


def test_a_stage_told_to_stop_while_it_is_being_started_does_not_run(repo):
    stage, lines = run(repo, "eight")
    stage.stop()
    with pytest.raises(StageFailed, match="killed by signal"):
        stage.wait(lines.append)
    assert "stage says eight" not in lines


def test_airflows_secrets_do_not_reach_a_stage(repo, monkeypatch):
    from pipeline_lib.orchestration.runner import stage_environment

    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    env = stage_environment(repo, "s", {"R1_PIPELINE_RUN": "x"})
    assert not [name for name in env if name.startswith("AIRFLOW")]
    assert env["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert env["R1_PIPELINE_RUN"] == "x"


def _when_started(repo: Path, act) -> None:
    """Call `act` once the stage says that it has started."""
    flag = repo / "started"
    deadline = time.monotonic() + 300
    try:
        while not flag.exists():
            assert time.monotonic() < deadline, "the stage did not start"
            time.sleep(0.05)
        flag.unlink()
    finally:
        act()


def test_a_group_is_left_alone_when_nothing_of_it_is_left():
    done = subprocess.Popen([sys.executable, "-c", textwrap.dedent("pass")], start_new_session=True)
    done.wait()
    assert processes.stop((done.pid,), None, 1.0) is True
