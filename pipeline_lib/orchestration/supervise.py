"""`python -m pipeline_lib.orchestration.supervise <worktree> <stage> <attempt> <lock>`: the process above a detached stage.

It runs the stage to its end (`runner.StageRun`), writes its log, a heartbeat and its outcome, and stops it on SIGTERM,
when it is asked to (`Attempt.ask_to_stop`), and when nobody has followed it for an hour: that is the bound on a stage whose task
was marked failed while no worker or triggerer was there to hear of it. It gets killed: then `runner`'s watchdog stops the stage.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration.detached import Attempt, Outcome, log_path
from pipeline_lib.orchestration.runner import StageRun

UNATTENDED_S = 3600.0
"""How long a stage goes on without anybody who follows it: longer than any restart of Airflow's services should take."""

UNATTENDED = "R1_UNATTENDED_SECONDS"
"""Environment variable that overrides it."""

BEAT_S = 0.5


class _Log:
    """The stage's log; two threads write to it."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._lock = file, threading.Lock()

    def add(self, line: str) -> None:
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()


class _Keeper(threading.Thread):
    """Beats, and stops the stage when there is a reason to; again and again, for it may be between two commands.

    A full disk or a file server that is away costs a round, or its heartbeat, and not the rounds that follow.
    """

    def __init__(self, attempt: Attempt, run: StageRun, log: _Log, unattended_s: float) -> None:
        super().__init__(daemon=True)
        self._attempt, self._run, self._log, self._unattended_s = attempt, run, log, unattended_s
        self._seen: tuple[int, float] = (0, time.monotonic())
        self.terminated = threading.Event()
        self.over = threading.Event()

    def run(self) -> None:
        said = False
        while not self.over.wait(BEAT_S):
            with suppress(OSError):
                if not (reason := self._reason()):
                    continue
                if not said:
                    said = True
                    with suppress(OSError):
                        self._log.add(f"stopping {self._attempt.address}: {reason}")
                self._run.stop()

    def _reason(self) -> str:
        """Beat; return why the stage has to stop, or nothing."""
        try:
            self._attempt.heartbeat.touch()
        except FileNotFoundError:
            return "its worktree was removed"
        except OSError:
            pass  # whoever asks for a stop may still be heard
        if self.terminated.is_set():
            return "SIGTERM"
        if self._attempt.asked_to_stop():
            return "it was asked to stop"
        try:
            touched = self._attempt.attended.stat().st_mtime_ns
        except FileNotFoundError:
            return "its worktree was removed"
        if touched != self._seen[0]:
            self._seen = (touched, time.monotonic())
        if time.monotonic() - self._seen[1] > self._unattended_s:
            return f"nobody has followed it for {self._unattended_s:.0f} s"
        return ""


def supervise(attempt: Attempt, unattended_s: float) -> Outcome:
    """Run the stage to its end and return how it ended; the outcome is written, too."""
    path = log_path(attempt.worktree, attempt.address)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        log = _Log(file)
        run = StageRun(attempt.worktree, attempt.address)
        keeper = _Keeper(attempt, run, log, unattended_s)
        signal.signal(signal.SIGTERM, lambda *_: keeper.terminated.set())
        keeper.start()
        outcome = _run(run, log)
        keeper.over.set()
    attempt.leave_outcome(outcome)
    return outcome


def _run(run: StageRun, log: _Log) -> Outcome:
    try:
        result = run.wait(log.add)
    except PipelineError as failure:
        return Outcome(exit_code=failure.exit_code, message=str(failure))
    except Exception as error:  # a bug or the machine's fault: whoever follows has to hear of it
        traceback.print_exc()
        return Outcome(exit_code=1, message=f"the stage's supervisor failed: {error!r}")
    return Outcome(exit_code=0, how=result.how.value, seconds=result.seconds)


def main(arguments: list[str]) -> int:
    """Run the attempt that `detached.start` made room for; return the stage's exit code."""
    worktree, address, name, lock = arguments
    os.set_inheritable(
        int(lock), False
    )  # the stage's own processes may outlive us for a moment; the lock may not
    seconds = float(os.environ.get(UNATTENDED, UNATTENDED_S))
    return supervise(Attempt(Path(worktree), address, name), seconds).exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
