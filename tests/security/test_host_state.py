"""What the attack tests compare afterwards would show a change: each kind is made here, really where that harms nobody."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.security.host_state import look, orphans_come_here


def test_nothing_changes_by_looking() -> None:
    before = look()
    assert before.changes(look()) == []
    assert len([value for value in before.facts.values() if value is not None]) > 25


@contextmanager
def _shared_memory() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    number = libc.shmget(0, 4096, 0o1600)
    assert number >= 0
    try:
        yield
    finally:
        libc.shmctl(number, 0, None)


@contextmanager
def _semaphore() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    number = libc.semget(0, 1, 0o1600)
    assert number >= 0
    try:
        yield
    finally:
        libc.semctl(number, 0, 0)


@contextmanager
def _message_queue() -> Iterator[None]:
    libc = ctypes.CDLL(None)
    number = libc.msgget(0, 0o1600)
    assert number >= 0
    try:
        yield
    finally:
        libc.msgctl(number, 0, None)


@contextmanager
def _file() -> Iterator[None]:
    path = Path("/dev/shm") / f"owned-{os.getpid()}"
    path.touch()
    try:
        yield
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("make", "words"),
    [(_shared_memory, "SysV shm"), (_semaphore, "SysV sem"), (_message_queue, "SysV msg"), (_file, "files")],
)
def test_objects_left_behind_are_seen(make, words: str) -> None:  # type: ignore[no-untyped-def]
    before = look()
    with make():
        (change,) = before.changes(look())
    assert change.startswith(words)
    assert before.changes(look()) == []


def test_a_process_whose_parent_ended_is_seen() -> None:
    before = look()
    code = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3).pid)"
    with orphans_come_here():
        parent = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
        )
        stray = int(parent.stdout)
        try:
            assert before.changes(look()) == [f"process {stray}: sleep 60"]
        finally:
            os.kill(stray, 9)
            os.waitpid(stray, 0)
    assert before.changes(look()) == []


def test_a_child_of_a_process_that_was_there_before_is_no_change() -> None:
    code = "read go; sleep 60 >/dev/null & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        before = look()
        service.stdin.write("go\n")
        service.stdin.flush()
        child = int(service.stdout.readline())
        try:
            later = look()
            assert later.parents[child] == service.pid
            assert before.changes(later) == []
            stray = replace(later, parents={**later.parents, child: os.getpid()})
            assert len(before.changes(stray)) == 1
        finally:
            os.kill(child, 9)


def test_a_setting_and_a_clock_that_moved_are_seen() -> None:
    before = look()
    assert before.changes(replace(before, clock=before.clock - 5)) == ["the clock moved by -5.0 s"]
    moved = replace(before, facts={**before.facts, "kernel/core_pattern": "|/owned"})
    assert [line.partition(":")[0] for line in before.changes(moved)] == ["kernel/core_pattern"]
