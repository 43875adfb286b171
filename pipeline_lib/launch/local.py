"""Jobs as processes on this machine: one python for one rank, the DeepSpeed launcher for more.

The job gets a process group of its own and outlives its parent. It holds a lock (flock) as long as it lives, so a
second copy is impossible, and a parent that comes back after a kill waits for the one that is running instead
of starting another. The lock belongs to the open file, which the job inherits: it ends with the job, however that
ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from pipeline_lib.errors import EXIT_PREEMPTED
from pipeline_lib.launch.base import (
    LOG,
    RESULT,
    AlreadyRunning,
    error_of,
    finished_result,
    log_tail,
    prepare_folder,
    remove_folder,
)
from pipeline_lib.training.spec import JobSpec

OWNER = "owner.lock"
"""Held by the process that waits for the job."""
LOCK = "job.lock"
"""Held by the job itself, through a file it inherits."""
PROCESS = "process.json"
POLL_SECONDS = 0.1
MODULE = "pipeline_lib.training.job"


class LocalLauncher:
    """Starts jobs here."""

    def run(self, spec: JobSpec) -> Mapping[str, float]:
        """Run the job to its end; see `launch.run_job`."""
        root = Path.cwd()
        folder = prepare_folder(spec, root)
        with (folder / OWNER).open("a+") as owner, (folder / LOCK).open("a+") as lock:
            if not _try_lock(owner):
                raise AlreadyRunning(
                    f"{spec.name}: another process is running this job (see {folder}); wait for it"
                )
            code = 0
            if not _try_lock(lock):
                print(f"{spec.name}: already running as pid {_pid(folder)}; waiting for it", file=sys.stderr)
                code = _wait_for_lock(lock, folder)
            elif finished_result(spec, root, folder) is None:
                code = _start_and_wait(spec, root, folder, lock)
            metrics = finished_result(spec, root, folder)
            if metrics is None:
                raise error_of(code or 1, folder, spec.name)
            remove_folder(folder)
            return metrics


def _start_and_wait(spec: JobSpec, root: Path, folder: Path, lock: IO[str]) -> int:
    """Start the job with the lock in its hands, pass signals and output on, return its exit code."""
    (folder / RESULT).unlink(missing_ok=True)
    with (folder / LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command(spec, folder),
            cwd=root,
            env=environment(spec),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
    (folder / PROCESS).write_text(json.dumps({"pid": process.pid}), encoding="utf-8")
    with _forwarding(process.pid), _echo(folder) as echo:
        while process.poll() is None:
            echo()
            time.sleep(POLL_SECONDS)
        echo()
    return process.returncode and _exit_code(process.returncode, folder)


def _exit_code(returned: int, folder: Path) -> int:
    """The job's exit code; the DeepSpeed launcher hides its ranks' behind its own, but their log tells."""
    if any(line.startswith("Preempted: ") for line in log_tail(folder)):
        return EXIT_PREEMPTED
    # A process that a signal ended has a negative code; shells and people know it as 128 + signal.
    return returned if returned >= 0 else 128 - returned


def command(spec: JobSpec, folder: Path) -> list[str]:
    """The job's command line."""
    ranks = int(spec.engine["world_size"])
    if ranks == 1:
        return [sys.executable, "-m", MODULE, str(folder)]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", str(ranks)]
    return [
        *launcher,
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(_free_port()),
        "--module",
        MODULE,
        str(folder),
    ]


def environment(spec: JobSpec) -> dict[str, str]:
    """The job's environment: threads per rank, the CPU accelerator where there is no GPU."""
    ranks = int(spec.engine["world_size"])
    threads = int(spec.engine["threads"]) or max(len(os.sched_getaffinity(0)) // ranks, 1)
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if not Path("/dev/nvidia0").exists():
        env["DS_ACCELERATOR"] = "cpu"
    return env


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_lock(lock: IO[str], folder: Path) -> int:
    """Wait until the running copy ends, passing signals and its output on; returns the exit code its log tells."""
    with _forwarding(_pid(folder)), _echo(folder) as echo:
        while not _try_lock(lock):
            echo()
            time.sleep(POLL_SECONDS)
        echo()
    return EXIT_PREEMPTED if _exit_code(1, folder) == EXIT_PREEMPTED else 0


def _pid(folder: Path) -> int:
    """Process id (and group) of the running job; 0 while it is only being started."""
    try:
        return int(json.loads((folder / PROCESS).read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError):
        return 0


@contextmanager
def _forwarding(session: int) -> Iterator[None]:
    """SIGTERM and SIGINT to this process reach every rank of the job; this process goes on waiting for it.

    The DeepSpeed launcher itself is left out: it would kill its ranks before they have written a checkpoint.
    """

    def forward(_number: int, _frame: FrameType | None) -> None:
        for pid in ranks_of(session):
            os.kill(pid, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ranks_of(session: int) -> list[int]:
    """Process ids of the training processes in the job's session (its id is its first process's)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if MODULE in words and not _is_launcher(words) and os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended meanwhile
    return found


def _is_launcher(words: list[str]) -> bool:
    return any(word.startswith("deepspeed.launcher") or word.endswith("/deepspeed") for word in words)


@contextmanager
def _echo(folder: Path) -> Iterator[_Echo]:
    echo = _Echo(folder / LOG)
    try:
        yield echo
    finally:
        echo.close()


class _Echo:
    """Copies what the job has written since the last call to stderr."""

    def __init__(self, path: Path) -> None:
        self._file = path.open(encoding="utf-8", errors="replace") if path.exists() else None

    def __call__(self) -> None:
        if self._file is not None and (text := self._file.read()):
            sys.stderr.write(text)
            sys.stderr.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


LAUNCHER = LocalLauncher()
