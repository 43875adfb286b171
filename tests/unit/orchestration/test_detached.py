"""A stage that outlives its starter: found again, followed, stopped, lost. With the real dvc, which takes 2 s a call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.orchestration import detached, processes, supervise
from pipeline_lib.orchestration.detached import Attempt, Follower, Outcome
from pipeline_lib.orchestration.runner import StageFailed

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[3]

STAGE = """
import json, os, pathlib, signal, sys, time
with open("copies", "a") as copies:
    copies.write(f"{os.getpid()}\\n")
def checkpoint(*_):
    print("checkpoint written", flush=True)
    pathlib.Path(os.environ["R1_EXIT_FILE"]).write_text(json.dumps({"exit_code": 75, "error": "preempted"}))
    sys.exit(75)
signal.signal(signal.SIGTERM, checkpoint)
what = pathlib.Path("what").read_text().strip()
for step in range(10_000):
    print("step", step, flush=True)
    if pathlib.Path("end").exists():
        break
    time.sleep(0.05)
pathlib.Path("out").write_text(what)
sys.exit(3 if what.startswith("bad") else 0)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("detached")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text("stages: {s: {cmd: python stage.py, deps: [what], outs: [out]}}")
    (root / ".gitignore").write_text("/out\n/.run/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture
def repo(project: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where stage `s` computes something new, runs until there is a file `end`, and notes each copy of itself."""
    (project / "what").write_text(request.node.name)
    for name in ("copies", "end"):
        (project / name).unlink(missing_ok=True)
    yield project
    (project / "end").touch()
    attempt = detached._current(project, "s")
    assert attempt is not None
    attempt.ask_to_stop()
    _until(lambda: not detached._lives(attempt))
    assert processes.members((), f"{processes.STAGE_MARK}={project}:s") == set()


def _start(repo: Path, lines: list[str] | None = None, **env: str) -> Attempt:
    return detached.start(repo, "s", env, [].append if lines is None else lines.append)


def _follow(
    attempt: Attempt, reader: str | None = None, follower: Follower | None = None
) -> tuple[list[str], Outcome]:
    follower = follower or Follower(attempt, reader)
    lines: list[str] = []
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        new, outcome = follower.poll()
        lines += new
        if outcome is not None:
            return lines, outcome
        time.sleep(0.1)
    raise AssertionError(f"no outcome; the log says {lines}")


def _until(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _copies(repo: Path) -> list[str]:
    return (repo / "copies").read_text().splitlines() if (repo / "copies").exists() else []


def _supervisor(repo: Path) -> int:
    (pid,) = (
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"supervise\0{repo}\0".encode() in _command(entry)
    )
    return pid


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_it_outlives_its_starter_and_is_found_again(repo):
    code = f"from pathlib import Path; from pipeline_lib.orchestration import detached; detached.start(Path({str(repo)!r}), 's', {{}}, print); import time; time.sleep(600)"
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT)
    _until(lambda: _copies(repo))
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    said: list[str] = []
    attempt = _start(repo, said)
    assert "already runs" in said[0]
    (repo / "end").touch()
    lines, outcome = _follow(attempt)
    assert outcome.result("s").how == "computed"
    steps = [line for line in lines if line.startswith("step")]
    assert steps == [f"step {n}" for n in range(len(steps))]
    assert len(_copies(repo)) == 1


def test_starting_it_ten_times_at_once_starts_one(repo):
    code = f"from pathlib import Path; from pipeline_lib.orchestration import detached; print(detached.start(Path({str(repo)!r}), 's', {{}}, lambda _: None).id)"
    starters = [
        subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    found = {starter.communicate()[0] for starter in starters}
    assert len(found) == 1
    _until(lambda: _copies(repo))
    (repo / "end").touch()
    _follow(_start(repo))
    assert len(_copies(repo)) == 1


def test_a_failure_keeps_its_exit_code_and_is_not_taken_for_the_next_attempts(repo):
    (repo / "what").write_text("bad")
    (repo / "end").touch()
    first = _start(repo)
    _, outcome = _follow(first)
    with pytest.raises(StageFailed) as failure:
        outcome.result("s")
    assert failure.value.exit_code == 3
    assert not failure.value.retry
    (repo / "what").write_text("good")
    second = _start(repo)
    assert second.id != first.id
    assert _follow(second)[1].exit_code == 0
    _, replaced = _follow(first)
    assert "a later attempt has taken its place" in replaced.message


def test_asked_to_stop_it_writes_its_checkpoint_and_a_new_start_waits_for_that(repo):
    attempt = _start(repo)
    _until(lambda: _copies(repo))
    attempt.ask_to_stop()
    said: list[str] = []
    second = _start(repo, said)
    assert "still ending" in said[0]
    assert second.id != attempt.id
    (repo / "end").touch()
    assert _follow(second)[1].exit_code == 0
    assert len(_copies(repo)) == 2


def test_sigterm_to_the_supervisor_is_a_preemption(repo):
    attempt = _start(repo)
    _until(lambda: _copies(repo))
    os.kill(_supervisor(repo), signal.SIGTERM)
    lines, outcome = _follow(attempt)
    assert outcome.exit_code == 75
    assert "checkpoint written" in lines
    assert any("stopping s: SIGTERM" in line for line in lines)


def test_a_stage_that_nobody_follows_stops_in_the_end(repo):
    attempt = _start(repo, **{supervise.UNATTENDED: "4"})
    _until(lambda: (attempt.attended.touch(), _copies(repo))[1])
    _until(lambda: attempt.outcome())
    lines, outcome = _follow(attempt)
    assert outcome.exit_code == 75
    assert any("nobody has followed it for 4 s" in line for line in lines)


def test_a_killed_supervisor_is_a_lost_stage_and_leaves_nothing_running(repo, monkeypatch):
    monkeypatch.setattr(detached, "LOST_AFTER_S", 1.0)
    attempt = _start(repo)
    _until(lambda: _copies(repo))
    os.kill(_supervisor(repo), signal.SIGKILL)
    _, outcome = _follow(attempt)
    assert "left no outcome" in outcome.message
    with pytest.raises(StageFailed) as failure:
        outcome.result("s")
    assert failure.value.retry
    (repo / "end").touch()
    assert _follow(_start(repo))[1].exit_code == 0
    assert len(_copies(repo)) == 2


def test_who_follows_at_once_reads_nothing_of_the_attempt_before(repo):
    """An attempt begins its log seconds after it was started; until then the one before's must not be taken for it."""
    (repo / "end").touch()
    before, _ = _follow(_start(repo))
    assert "step 0" in before
    (repo / "what").write_text("something else")
    follower = Follower(_start(repo))
    assert follower.poll() == ([], None)
    lines, outcome = _follow(follower._attempt, follower=follower)
    assert outcome.exit_code == 0
    assert lines == before, "the same lines, all of them and once"


def test_a_reader_that_takes_over_repeats_a_little_and_loses_nothing(repo, monkeypatch):
    monkeypatch.setattr(detached, "REPEATED_S", 0.5)
    attempt = _start(repo)
    _until(lambda: _copies(repo))
    killed = Follower(attempt, "1")
    seen: list[str] = []
    until = time.monotonic() + 2
    while time.monotonic() < until:
        seen += killed.poll()[0]
        time.sleep(0.05)
    (repo / "end").touch()
    assert not killed.superseded()
    rest, _ = _follow(attempt, "1")
    assert killed.superseded()
    whole, _ = _follow(attempt)
    assert set(seen) | set(rest) == set(whole)
    repeated = [line for line in rest if line in seen and line.startswith("step")]
    assert 1 <= len(repeated) < len([line for line in seen if line.startswith("step")])
    assert _follow(attempt, "2")[0] == whole
    leaving = Follower(attempt, "3")
    assert leaving.poll()[0] == whole
    leaving.leave()
    assert Follower(attempt, "3").poll()[0] == []
