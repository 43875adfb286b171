"""From a launcher to a job that has ended: find or submit, wait, pass output and signals on, tell errors.

Whatever the launcher, one process at a time waits for a job, a living copy is never doubled, and what the job
says on its way out decides the exception.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

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
    Job,
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
ASK_AGAIN_SECONDS = 3.0
"""How long to leave between two attempts to find or to submit a job."""
PATIENCE_SECONDS = 600.0
"""A controller may be restarted at any time; only after this long without an answer is waiting given up."""
LOST = "RankLost: "
"""How a rank begins that leaves because it misses another (`training.heartbeat`)."""
TOLD = (PREEMPTED, "ConfigError: ", "DataError: ", "StorageError: ")
"""How a job's one-line errors begin in its log (`training.job.main`)."""
T = TypeVar("T")


@dataclass
class StopRequests:
    """How often SIGTERM and SIGINT have asked this process to stop."""

    count: int = 0


def run_to_end(launcher: Launcher, spec: JobSpec) -> Mapping[str, float]:
    """Run the job to its end; see `launch.run_job`."""
    root = Path.cwd()
    folder = prepare_folder(spec, root)
    with _owning(folder, spec.name), _signals() as stops:
        job = describe(spec, root, folder)
        running, ended = _answer(lambda: launcher.find(job), job.name, stops), Status("ended", 0)
        if running is not None:
            print(f"{spec.name}: already running as {running.title}; waiting for it", file=sys.stderr)
            ended = _await(running, stops)
        # A job that has its result and no outputs wrote them before dvc cleared them away for this attempt: its checkpoint makes them again.
        if finished_result(spec, root, folder) is None and (running is None or (folder / RESULT).is_file()):
            (folder / RESULT).unlink(missing_ok=True)
            ended = _await(_submit(launcher, job, stops), stops)
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


def _submit(launcher: Launcher, job: Job, stops: StopRequests) -> Submitted:
    """Submit the job. Preempted where this process was asked to stop before.

    Once it is asked to, it only looks: a submission that got no answer may be in the queue all the same.
    """
    submitted = _answer(lambda: launcher.find(job) if stops.count else launcher.submit(job), job.name, stops)
    if submitted is None:
        raise Preempted("stopped before the job was submitted")
    return submitted


def _answer(ask: Callable[[], T], name: str, stops: StopRequests) -> T:
    """What `ask` returns, which is called again while it raises NotAnswering: for PATIENCE_SECONDS, or once more after a stop."""
    begun = time.monotonic()
    while True:
        is_last = stops.count > 0
        try:
            return ask()
        except NotAnswering as error:
            if is_last:
                raise Preempted(
                    f"stopped before the job was submitted; if it is in the queue all the same, a retry finds it ({error})"
                ) from None
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise
            print(f"{name}: {error}; asking again", file=sys.stderr, flush=True)
        next_attempt = time.monotonic() + ASK_AGAIN_SECONDS
        while time.monotonic() < next_attempt and not stops.count:
            time.sleep(ECHO_SECONDS)


def _await(running: Submitted, stops: StopRequests) -> Status:
    """Wait for the end, copying the job's output to stderr; requests to stop, earlier ones too, are passed on."""
    with closing(running):
        next_look, told, passed_on = 0.0, "", 0
        status, answered = Status("running"), time.monotonic()
        while True:
            if time.monotonic() >= next_look:
                try:
                    if (asked := stops.count) > passed_on:
                        running.stop()
                        passed_on = asked
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
def _signals() -> Iterator[StopRequests]:
    """Counts SIGTERM and SIGINT to this process, which goes on."""
    stops = StopRequests()

    def note(_number: int, _frame: FrameType | None) -> None:
        stops.count += 1

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
