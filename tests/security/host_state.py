"""What an attack must leave as it was on the host, and what has changed of it. Standard library only: `ordinary_user` has no other."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLOCK_SECONDS = 1.0
"""A clock that was set moves more than this against the monotonic one."""
_PR_SET_CHILD_SUBREAPER = 36
_SYSCTLS = {
    "kernel": (
        *(
            "hostname",
            "domainname",
            "core_pattern",
            "core_uses_pid",
            "modprobe",
            "randomize_va_space",
            "sysrq",
        ),
        *(
            "pid_max",
            "threads-max",
            "panic",
            "panic_on_oops",
            "shmmax",
            "shmall",
            "shmmni",
            "sem",
            "msgmax",
            "msgmni",
        ),
        *(
            "dmesg_restrict",
            "kptr_restrict",
            "perf_event_paranoid",
            "unprivileged_bpf_disabled",
            "yama/ptrace_scope",
        ),
    ),
    "vm": (
        "overcommit_memory",
        "swappiness",
        "mmap_min_addr",
        "max_map_count",
        "nr_hugepages",
        "panic_on_oom",
    ),
    "fs": (
        "suid_dumpable",
        "protected_symlinks",
        "protected_hardlinks",
        "file-max",
        "nr_open",
        "pipe-max-size",
    ),
    "net": ("ipv4/ip_forward", "core/somaxconn"),
    "user": ("max_user_namespaces", "max_pid_namespaces", "max_mnt_namespaces"),
}
_IPC_NAMES = {"msg": 4, "sem": 6, "shm": 9}
"""Table of /proc/sysvipc -> the column with the creator's uid."""


@dataclass(frozen=True, slots=True)
class HostState:
    """A look at the host."""

    facts: dict[str, object]
    parents: dict[int, int]
    """Everything that descends from this process -> its parent."""
    clock: float
    """Wall clock minus monotonic clock."""

    def changes(self, later: HostState) -> list[str]:
        """What is different in `later`: one line each.

        Processes that ended do not count, nor do new ones below one that is in this look: a service that was there before
        starts children of its own. What an attack leaves behind becomes a child of this process (`orphans_come_here`).
        """
        found = [
            f"{name}: {value!r} became {later.facts[name]!r}"
            for name, value in self.facts.items()
            if later.facts[name] != value
        ]
        found += [
            f"process {pid}: {_command(pid)}" for pid in sorted(later.parents) if not self._knows(pid, later)
        ]
        if abs(later.clock - self.clock) > CLOCK_SECONDS:
            found.append(f"the clock moved by {later.clock - self.clock:.1f} s")
        return found

    def _knows(self, pid: int, later: HostState) -> bool:
        """Whether the process, or one above it, is in this look."""
        while pid in later.parents:
            if pid in self.parents:
                return True
            pid = later.parents[pid]
        return False


def look() -> HostState:
    """The host now."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " /sandbox " in line]
    facts: dict[str, object] = {
        "files": sorted(
            place + "/" + name
            for place in ("", "/dev/shm", "/tmp")
            for name in os.listdir(place or "/")
            if "owned" in name
        ),
        "mounts of the sandbox": mounts,
        "name": os.uname().nodename,
        "limits": Path("/proc/self/limits").read_text(),
    }
    for area, names in _SYSCTLS.items():
        facts |= {f"{area}/{name}": _read(Path("/proc/sys") / area / name) for name in names}
    facts |= {f"SysV {table}": _ipc_objects(table, owner) for table, owner in _IPC_NAMES.items()}
    return HostState(facts, _descendants(os.getpid()), time.time() - time.monotonic())


@contextmanager
def orphans_come_here(come: bool = True) -> Iterator[None]:
    """A process below this one whose parent ends becomes this one's child, not init's: it stays in sight."""
    _become_reaper(come)
    try:
        yield
    finally:
        _become_reaper(not come)


def _become_reaper(yes: bool) -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER)")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:  # not on this kernel, or root's alone
        return None


def _ipc_objects(table: str, owner: int) -> list[tuple[str, ...]]:
    """Key, id and permissions of what this user created. (Services under other users come and go.)"""
    rows = [line.split() for line in Path("/proc/sysvipc", table).read_text().splitlines()[1:]]
    return [tuple(row[:3]) for row in rows if row[owner] == str(os.getuid())]


def _descendants(pid: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, (_read(children) or "").split()):
            if _is_alive(child):
                found |= {child: pid, **_descendants(child)}
    return found


def _is_alive(pid: int) -> bool:
    status = _read(Path(f"/proc/{pid}/stat"))
    return status is not None and status.rpartition(")")[2].split()[0] not in "ZX"


def _command(pid: int) -> str:
    """Its command line. In the middle of an exec it has none, after the descriptors of the old program are closed."""
    deadline = time.monotonic() + 1
    while not (line := _read(Path(f"/proc/{pid}/cmdline"))) and _is_alive(pid):
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return (line or "?").replace("\0", " ").strip()[:200]
