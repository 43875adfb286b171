"""From a launcher to a job that has ended: find or submit, wait, pass output and signals on, tell errors.

Whatever the launcher, one process at a time waits for a job, a living copy is never doubled, and what the job
says on its way out decides the exception.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from pipeline_lib.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED, DataError, PipelineError, Preempted
from pipeline_lib.launch.base import (
    PREEMPTED,
    AlreadyRunning,
    JobFailed,
    JobHeld,
    Launcher,
    NotAnswering,
    Status,
    Submitted,
)
from pipeline_lib.launch.job import (
    LOG,
    RESULT,
    describe,
    finished_result,
    log_tail,
    prepare_folder,
    remove_folder,
)
from pipeline_lib.training.spec import JobSpec

OWNER = "owner.lock"
"""Held by the process that waits for the job."""
ECHO_SECONDS = 0.1
PATIENCE_SECONDS = 600.0
"""A controller may be restarted under a running job; only after this long without an answer is waiting given up."""
LOST = "RankLost: "
"""How a rank begins that leaves because it misses another (`training.heartbeat`)."""
TOLD = (PREEMPTED, "ConfigError: ", "DataError: ", "StorageError: ")
"""How a job's one-line errors begin in its log (`training.job.main`)."""


def run_to_end(launcher: Launcher, spec: JobSpec) -> Mapping[str, float]:
    """Run the job to its end; see `launch.run_job`."""
    root = Path.cwd()
    folder = prepare_folder(spec, root)
    with _owning(folder, spec.name):
        job = describe(spec, root, folder)
        running, ended = launcher.find(job), Status("ended", 0)
        if running is not None:
            print(f"{spec.name}: already running as {running.title}; waiting for it", file=sys.stderr)
            ended = _await(running)
        # A job that has its result and no outputs wrote them before dvc cleared them away for this attempt: its checkpoint makes them again.
        if finished_result(spec, root, folder) is None and (running is None or (folder / RESULT).is_file()):
            (folder / RESULT).unlink(missing_ok=True)
            ended = _await(launcher.submit(job))
        metrics = finished_result(spec, root, folder)
        if metrics is None:
            raise error_of(ended, folder, spec.name)
        remove_folder(folder)
        return metrics


def error_of(ended: Status, folder: Path, name: str) -> PipelineError:
    """The exception that the end of a job stands for, with what the end of its log says."""
    lines = [line for line in log_tail(folder) if line.strip()]
    # Ranks that are told to stop because another one failed may say so after it: theirs is not the reason.
    preempted = ended.exit_code == EXIT_PREEMPTED
    told = [line for line in lines if line.startswith(TOLD) and line.startswith(PREEMPTED) == preempted]
    message = told[-1].partition(": ")[2] if told else ended.detail or (lines[-1] if lines else "no output")
    if preempted:
        # Why the queue stopped it is the reason; what the ranks say is how far they came.
        return Preempted(f"{ended.detail} ({message})" if told and ended.detail else message)
    if ended.exit_code == EXIT_BAD_INPUT:
        return DataError(message)
    if lost := [line for line in lines if line.startswith(LOST)]:
        return JobFailed(f"{name}: {lost[0].removeprefix(LOST)}")
    how = (
        "without a result" if ended.exit_code in (0, None) else f"with exit code {ended.exit_code}"
    ) + f" ({ended.detail})" * bool(ended.detail)
    return JobFailed(f"{name} ended {how}; the end of {folder / LOG}:\n" + "\n".join(lines))


def _await(running: Submitted) -> Status:
    """Wait for the end, copying the job's output to stderr; SIGTERM and SIGINT are passed on, once each."""
    with closing(running), _signals() as asked_to_stop:
        next_look, told = 0.0, ""
        status, answered = Status("running"), time.monotonic()
        while True:
            if time.monotonic() >= next_look:
                try:
                    if asked_to_stop.is_set():
                        running.stop()
                        asked_to_stop.clear()
                    status, answered = running.status(), time.monotonic()
                except NotAnswering as error:
                    if time.monotonic() - answered > PATIENCE_SECONDS:
                        raise
                    print(f"{running.title}: {error}; asking again", file=sys.stderr, flush=True)
                next_look = time.monotonic() + running.poll_seconds
                if status.phase == "waiting" and status.detail != told:
                    told = status.detail
                    print(f"{running.title}: waiting ({told})", file=sys.stderr, flush=True)
            _echo(running.new_output())
            if status.phase == "held":
                raise JobHeld(status.detail)
            if status.phase == "ended":
                return status
            time.sleep(min(ECHO_SECONDS, running.poll_seconds))


def _echo(text: str) -> None:
    if text:
        sys.stderr.write(text)
        sys.stderr.flush()


@contextmanager
def _owning(folder: Path, name: str) -> Iterator[None]:
    """Inside, no other process waits for the job of `folder`."""
    with (folder / OWNER).open("a+") as owner:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"{name}: another process is running this job (see {folder}); wait for it"
            ) from None
        yield


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT to this process, which goes on."""
    asked = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
