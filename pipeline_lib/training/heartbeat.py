"""Every rank shows that it lives and how far it has come; one that stops for good ends the job with a line that names it.

A collective waits for the slowest rank and says nothing. So each rank has a thread that counts in a file of the job's
directory (which all nodes share, as checkpoints do) and watches the files of the others. A rank that is paused and goes on
costs time only. One whose count stands still for `timeout_seconds` is lost: the ranks that live print who it is and which
step each rank had reached, kill it where it is on their machine (a stopped process would keep the job's lock), and leave
with an exit code that is retried; the retry goes on from the checkpoint.

Time is measured on each watcher's own monotonic clock, from one change of a count to the next: no two clocks are compared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

TIMEOUT = "R1_RANK_TIMEOUT_SECONDS"
TIMEOUT_SECONDS = 600.0
"""How long a rank may stand still. The process group's own limit, for a hang that does count on, is 30 minutes."""
BEATS_PER_TIMEOUT = 20
MOST_SECONDS_A_BEAT = 2.0
EXIT_LOST = 1
"""Retried, as a crash is."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a rank last wrote."""

    count: int
    step: int
    """Steps it has finished."""
    host: str
    pid: int
    born: float
    """The process's start time: with the pid it names one process."""


class Heartbeat:
    """This rank's sign of life and its look at the others. A world of one has nobody to miss it, and needs no thread."""

    def __init__(self, folder: Path, rank: int, size: int, timeout_seconds: float | None = None) -> None:
        self._folder, self._rank, self._size = folder, rank, size
        self.timeout_seconds = timeout_seconds or float(os.environ.get(TIMEOUT, TIMEOUT_SECONDS))
        self._every = min(MOST_SECONDS_A_BEAT, self.timeout_seconds / BEATS_PER_TIMEOUT)
        self._step = self._count = 0
        self._born = psutil.Process().create_time()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin. Every rank starts before the first collective, so a rank that never appears is missed too."""
        if self._size > 1:
            self._path(self._rank).unlink(missing_ok=True)
            self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
            self._thread.start()

    def reached(self, step: int) -> None:
        """So many steps are finished."""
        self._step = step

    def stop(self) -> None:
        """The job is over: nobody is missed any more. The file stays until the folder goes, saying how far this rank came."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        seen: dict[int, tuple[Beat | None, float]] = {}
        looked = time.monotonic()
        while not self._stop.wait(self._every):
            try:
                self._beat()
            except OSError:  # while the file system is away nobody's silence counts
                seen.clear()
                continue
            now = time.monotonic()
            if now - looked > self._every * BEATS_PER_TIMEOUT / 2:
                seen.clear()  # it was this rank that stood still; the others may have done nothing wrong
            looked = now
            for rank in set(range(self._size)) - {self._rank}:
                beat = self._read(rank)
                before, since = seen.get(rank, (None, now))
                if rank not in seen or beat != before:
                    seen[rank] = (beat, now)
                elif now - since > self.timeout_seconds:
                    self._give_up(rank, beat)

    def _beat(self) -> None:
        self._count += 1
        beat = [self._count, self._step, socket.gethostname(), os.getpid(), self._born]
        path = self._path(self._rank)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(beat), encoding="utf-8")
        temporary.replace(path)

    def _read(self, rank: int) -> Beat | None:
        try:
            return Beat(*json.loads(self._path(rank).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _give_up(self, rank: int, beat: Beat | None) -> None:
        """Say who is lost, end it and this process: the main thread sits in a collective that nothing can interrupt."""
        steps = ", ".join(f"{other}: {self._reached(other)}" for other in range(self._size))
        where = f" (pid {beat.pid} on {beat.host})" if beat else ""
        print(
            f"RankLost: rank {rank}{where} has stood still for {self.timeout_seconds:.0f} s; steps finished by rank: "
            f"{steps}. Look at that machine; the retry goes on from the checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        if beat is not None and beat.host == socket.gethostname():
            _kill(beat)
        os._exit(EXIT_LOST)

    def _reached(self, rank: int) -> int | str:
        if rank == self._rank:
            return self._step
        beat = self._read(rank)
        return beat.step if beat else "never started"

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank}.alive"


def _kill(beat: Beat) -> None:
    """SIGKILL, which a stopped process dies of too; nothing where the pid is another process by now."""
    try:
        if psutil.Process(beat.pid).create_time() == beat.born:
            os.kill(beat.pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
        pass
