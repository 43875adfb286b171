"""DVC's table of who reads and writes what in a worktree (`.dvc/tmp/rwlock`), mended where a killed dvc left it wrong.

DVC rewrites the file in place, so a kill can leave it empty, and then no stage of the worktree ever starts again. And dvc takes
an entry for alive while any process has its pid: a zombie that nobody has reaped yet, or, after a restart of the machine, a
stranger. Both end a retry with "is busy, it is being blocked by".
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline_lib.storage.atomic import write_json

_PATIENCE_S = 3.0


def mend(worktree: Path, say: Callable[[str], None]) -> None:
    """Remove the table if it is half written, and otherwise the entries of processes that are no dvc of this worktree.

    A living dvc writes the table in a millisecond: what stays unreadable for seconds has no writer. It is advice among stages of
    one worktree, whose outputs are disjoint; without it the next dvc begins a new one.
    """
    table = worktree / ".dvc" / "tmp" / "rwlock"
    try:
        if not _gone(_read(table), worktree):
            return
        with table.with_name("rwlock.lock").open("a") as guard:  # as dvc does
            fcntl.flock(guard, fcntl.LOCK_EX)
            entries = _read(table)
            gone = _gone(entries, worktree)
            write_json(table, _without(entries, gone))
        say(f"removed what killed dvc processes (pids {sorted(gone)}) left in {table}")
    except FileNotFoundError:
        return
    except ValueError:
        say(f"a killed dvc left {table} half written; removing it")
        table.unlink(missing_ok=True)


def _read(table: Path) -> dict[str, Any]:
    """The table, once it can be read. Raises ValueError when it stays unreadable."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            entries = json.loads(table.read_text(encoding="utf-8"))
            return {"read": dict(entries.get("read", {})), "write": dict(entries.get("write", {}))}
        except (ValueError, AttributeError, TypeError) as error:
            if time.monotonic() > deadline:
                raise ValueError(f"{table}: {error}") from None
            time.sleep(0.2)


def _gone(entries: dict[str, Any], worktree: Path) -> set[int]:
    readers = [holder for holders in entries["read"].values() for holder in holders]
    pids = {int(holder["pid"]) for holder in (*readers, *entries["write"].values())}
    return {pid for pid in pids if not _is_dvc(pid, worktree)}


def _is_dvc(pid: int, worktree: Path) -> bool:
    """True for a living dvc that works in the worktree, and for another user's process, of which we cannot know."""
    try:
        inside = Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(worktree.resolve())
        return inside and b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except PermissionError:
        return True
    except OSError:  # it ended, or is a zombie
        return False


def _without(entries: dict[str, Any], gone: set[int]) -> dict[str, Any]:
    read = {path: [h for h in holders if h["pid"] not in gone] for path, holders in entries["read"].items()}
    write = {path: holder for path, holder in entries["write"].items() if holder["pid"] not in gone}
    return {"write": write, "read": {path: holders for path, holders in read.items() if holders}}
