"""Process groups that can be stopped for certain, also by somebody who did not start them.

A stage is `dvc` and its command, and below them a launcher, ranks, an inference engine: some call
setsid, some outlive a `kill -9` of their parent. Two marks find them all: the process group, and an
environment variable that every descendant inherits. Linux only: both are read from /proc.

Run as a script this file is the watchdog of a group: it waits on standard input and, when that
closes without the word `done`, stops the group. So a stage never outlives the worker that started
it, even when the worker is killed with SIGKILL. It imports only the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

STAGE_MARK = "R1_STAGE_MARK"
"""Environment variable: the stage a process works for. MLflow's shipper drops it, since it outlives a stage."""

SERVICES_MARK = "R1_SERVICES_MARK"
"""Environment variable: the checkout whose services (`make up`) a process belongs to."""


def members(groups: Collection[int], mark: str | None = None) -> set[int]:
    """Return the living processes of these groups or sessions, and those whose environment has `mark`.

    `mark` is `NAME=value`. The caller itself and zombies are left out; a zombie only waits for its parent to look at it.
    """
    found = set()
    needle = f"\0{mark}\0".encode() if mark else None
    for pid, state, group, session in _processes():
        if pid == os.getpid() or state in "ZX":
            continue
        if group in groups or session in groups or (needle and needle in _environment(pid)):
            found.add(pid)
    return found


def stop(groups: Collection[int], mark: str | None, grace_s: float) -> bool:
    """Send SIGTERM to all members, SIGKILL to those left after `grace_s` seconds; True when TERM was enough."""
    polite = True
    deadline = time.monotonic() + grace_s
    if not _signal_all(groups, mark, signal.SIGTERM):
        return True
    while members(groups, mark):
        if time.monotonic() >= deadline:
            polite = False
            _signal_all(groups, mark, signal.SIGKILL)
        time.sleep(0.05)
    return polite


def _signal_all(groups: Collection[int], mark: str | None, number: int) -> set[int]:
    pids = members(groups, mark)
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return pids


def _processes() -> Iterator[tuple[int, str, int, int]]:
    """Yield (pid, state, process group, session) of every process that can be read."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            state, _parent, group, session = stat.rpartition(")")[2].split()[:4]
            yield int(entry.name), state, int(group), int(session)


def _environment(pid: int) -> bytes:
    try:
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes() + b"\0"
    except OSError:
        return b""


def _watch(pgid: int, mark: str, grace_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # whoever stops the worker must not stop its watchdog
    if sys.stdin.read().strip() != "done":
        stop((pgid,), mark, grace_s)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
