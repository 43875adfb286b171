"""Jobs as processes on this machine: one python for one rank, the DeepSpeed launcher for more.

The job gets a process group of its own and outlives its parent. It holds a lock (flock) as long as it lives, so a
second copy is impossible, and a parent that comes back after a kill waits for the one that is running instead
of starting another. The lock belongs to the open file, which the job's first process inherits: it ends with that process, however it
ends.

The DeepSpeed launcher hands no open file on to its ranks. One that is killed lets go of the lock while they train; a job therefore runs as long as
somebody holds the lock or any of its processes lives, which are known by the job's directory in their command line.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from pipeline_lib.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED
from pipeline_lib.launch import lean
from pipeline_lib.launch.base import PREEMPTED, Status
from pipeline_lib.launch.job import LOG, Job, LogReader, log_tail

LOCK = "job.lock"
"""Held by the job itself, through a file it inherits."""
PROCESS = "process.json"
POLL_SECONDS = 0.1
RANK_ENDED = re.compile(r"\] exits with return code = (-?\d+)$")
"""How the DeepSpeed launcher logs the first rank that ended badly, once it has stopped the others."""
TELLING = (EXIT_BAD_INPUT, EXIT_PREEMPTED)
"""Exit codes that only a rank gives."""


class LocalLauncher:
    """Starts jobs here."""

    def find(self, job: Job) -> LocalJob | None:
        """The running copy: whoever holds the lock, or ranks whose launcher was killed."""
        lock = (job.folder / LOCK).open("a+")
        if not _try_lock(lock) or _lives(job):
            return LocalJob(job, lock, process=None)
        lock.close()
        return None

    def submit(self, job: Job) -> LocalJob:
        """Start the job with the lock in its hands."""
        lock = (job.folder / LOCK).open("a+")
        if not _try_lock(lock):
            return LocalJob(job, lock, process=None)
        with (job.folder / LOG).open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command(job),
                cwd=job.root,
                env=environment(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
        (job.folder / PROCESS).write_text(json.dumps({"pid": process.pid}), encoding="utf-8")
        return LocalJob(job, lock, process)


class LocalJob:
    """A job's processes: this process's children, or (`process` None) an orphan that a dead one left."""

    poll_seconds = POLL_SECONDS

    def __init__(self, job: Job, lock: IO[str], process: subprocess.Popen[bytes] | None) -> None:
        self._job, self._lock, self._process = job, lock, process
        self.new_output = LogReader(job.folder / LOG)

    @property
    def title(self) -> str:
        """Its process id."""
        return f"pid {self._pid()}"

    def status(self) -> Status:
        """A child's end is its exit code; an orphan's is its lock let go, and nobody knows its exit code. Neither ends before its ranks."""
        returned = self._process.poll() if self._process is not None else None
        ended = returned is not None if self._process is not None else _try_lock(self._lock)
        if not ended or _lives(self._job):
            return Status("running")
        return Status("ended", self._exit_code(returned))

    def _exit_code(self, returned: int | None) -> int | None:
        """The exit code of the rank that ended first, where anybody knows it.

        The DeepSpeed launcher passes it on and logs it, unless it was itself told to stop; then, and for an orphan
        without a launcher, the ranks' last words tell. Those of ranks that were stopped because one had ended do not.
        """
        if returned == 0:
            return 0
        lines = log_tail(self._job.folder)
        code = returned
        if noticed := [match for match in map(RANK_ENDED.search, lines) if match]:
            code = int(noticed[-1][1])
        elif code not in TELLING and any(line.startswith(PREEMPTED) for line in lines):
            code = EXIT_PREEMPTED
        # A process that a signal ended has a negative code; shells and people know it as 128 + signal.
        return code if code is None or code > 0 else 128 - code

    def stop(self) -> None:
        """SIGTERM to every rank.

        The DeepSpeed launcher itself is left out: it would kill its ranks before they have written a checkpoint.
        """
        for pid in ranks_of(self._pid(), self._job.module):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGTERM)

    def close(self) -> None:
        """Let go of the lock's file; a living job keeps the lock."""
        self._lock.close()

    def _pid(self) -> int:
        """Process id (and session) of the job; 0 while another process is only starting it."""
        if self._process is not None:
            return self._process.pid
        try:
            return int(json.loads((self._job.folder / PROCESS).read_text(encoding="utf-8"))["pid"])
        except (OSError, ValueError):
            return 0


def command(job: Job) -> list[str]:
    """The command line that starts every rank."""
    if job.ranks == 1:
        return list(job.program)
    return [
        *lean.through(lean.RUNNER),
        "--num_accelerators",
        str(job.ranks),
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(_free_port()),
        "--module",
        job.module,
        str(job.folder),
    ]


def environment(job: Job) -> dict[str, str]:
    """The job's environment: this process's, and an equal share of the cores for each rank."""
    threads = job.threads or max(len(os.sched_getaffinity(0)) // job.ranks, 1)
    return {**os.environ, **job.environment, "OMP_NUM_THREADS": str(threads)}


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def ranks_of(session: int, module: str) -> list[int]:
    """Process ids of the training processes in the job's session (its id is its first process's)."""
    found = []
    for pid, words in _commands():
        with suppress(OSError):  # it ended meanwhile
            if module in words and not _is_launcher(words) and os.getsid(pid) == session:
                found.append(pid)
    return found


def _lives(job: Job) -> bool:
    """True while a rank of the job, or a launcher of its ranks, runs on this machine."""
    return any(job.module in words and str(job.folder) in words for _, words in _commands())


def _commands() -> Iterator[tuple[int, list[str]]]:
    """Every process of this machine and the words of its command line; none for one that has ended."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")


def _is_launcher(words: list[str]) -> bool:
    return any(word.startswith("deepspeed.launcher") or word.endswith("/deepspeed") for word in words)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


LAUNCHER = LocalLauncher()
