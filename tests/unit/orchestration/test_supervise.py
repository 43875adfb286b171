"""The keeper of a stage whose files fail: a full disk (/dev/full), a file that the system cannot reach (a link to itself)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline_lib.orchestration import supervise
from pipeline_lib.orchestration.detached import Attempt


class Run:
    """A stage that notes when it was stopped."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    attempt = Attempt(tmp_path, "s", "1")
    attempt.folder.mkdir()
    attempt.heartbeat.touch()
    attempt.attended.touch()
    return attempt


@pytest.fixture
def keep(attempt: Attempt, monkeypatch) -> Iterator[Callable[..., tuple[supervise._Keeper, Run]]]:
    """Starts a keeper with its log at a path."""
    monkeypatch.setattr(supervise, "BEAT_S", 0.02)
    keepers = []

    def start(log: Path, unattended_s: float = 60.0) -> tuple[supervise._Keeper, Run]:
        run = Run()
        keeper = supervise._Keeper(attempt, run, supervise._Log(log.open("w")), unattended_s)
        keeper.start()
        keepers.append(keeper)
        return keeper, run

    yield start
    for keeper in keepers:
        keeper.over.set()
        keeper.join(10)


def _cut_off(path: Path) -> None:
    """Every access fails with ELOOP, an OSError that says nothing of whether the file exists."""
    path.unlink()
    path.symlink_to(path)


def test_a_log_on_a_full_disk_does_not_keep_a_stage_from_being_stopped(attempt, keep):
    keeper, run = keep(Path("/dev/full"))
    attempt.ask_to_stop()
    assert run.stopped.wait(10)
    assert keeper.is_alive()
    run.stopped.clear()
    assert run.stopped.wait(10), "once is not enough: it may be between two commands"


def test_a_heartbeat_that_cannot_be_written_does_not_keep_a_stage_from_being_stopped(attempt, keep, tmp_path):
    _cut_off(attempt.heartbeat)
    _, run = keep(tmp_path / "log")
    assert not run.stopped.wait(0.2)
    attempt.ask_to_stop()
    assert run.stopped.wait(10)
    assert "stopping s: it was asked to stop" in (tmp_path / "log").read_text()


def test_files_that_cannot_be_reached_for_a_while_cost_rounds_and_not_the_keeper(attempt, keep, tmp_path):
    _cut_off(attempt.attended)
    keeper, run = keep(tmp_path / "log", 1.0)
    time.sleep(1.5)
    assert keeper.is_alive()
    assert not run.stopped.is_set(), "who follows could not be seen"
    attempt.attended.unlink()
    attempt.attended.touch()
    before = attempt.heartbeat.stat().st_mtime_ns
    deadline = time.monotonic() + 10
    while attempt.heartbeat.stat().st_mtime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert run.stopped.wait(10), "nobody has followed it since"


def test_a_worktree_that_was_removed_stops_the_stage(attempt, keep, tmp_path):
    _, run = keep(tmp_path / "log")
    for file in attempt.folder.iterdir():
        file.rename(tmp_path / file.name)
    attempt.folder.rmdir()
    assert run.stopped.wait(10)
