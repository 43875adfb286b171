"""Service processes as `.run/services.json` remembers them.

A process number says little: it may be somebody else's by now. With the start time of its process and the boot
id of the machine it says enough.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Started:
    """A service process that was started."""

    name: str
    pid: int
    born: str
    """Start time of the process in clock ticks since boot, as /proc says it."""


def start(
    name: str, command: tuple[str, ...], root: Path, env: Mapping[str, str], user: str | None = None
) -> Started:
    """Start a service in a session of its own; its output goes to .run/logs/<name>.log."""
    log = log_path(root, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd="/" if user else root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    return Started(name, process.pid, born(process.pid) or "")


def log_path(root: Path, service: str) -> Path:
    """Return the file a service writes its output to."""
    return root / ".run" / "logs" / f"{service}.log"


def tail(log: Path, lines: int = 20) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def born(pid: int) -> str | None:
    """Return a process's start time, or None when there is no such process (or only its zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def boot_id() -> str:
    """Return what tells this boot of the machine from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
