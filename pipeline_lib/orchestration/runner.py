"""Run one DVC stage in a run's worktree, in a process group of its own (design §3).

`dvc --wait-for-lock repro --single-item <stage>` (as `dvc_program` is dvc): lines are handed on as they come, the group is
stopped as a whole, and the stage's own exit code is found again (DVC answers 255 whatever it was).
A killed dvc orphans its command and the next repro would start a second copy: so a new attempt
first stops whatever an earlier one left behind, and a watchdog stops the group if we are killed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.errors import EXIT_PREEMPTED, PipelineError
from pipeline_lib.orchestration import dvc_locks, processes
from pipeline_lib.orchestration.dvc_output import How, Output
from pipeline_lib.orchestration.integrity import differing_outputs, remove_output
from pipeline_lib.orchestration.programs import command_of
from pipeline_lib.orchestration.redaction import Redactor
from pipeline_lib.orchestration.remote_settings import ERROR_MARK, LOGS_ENV, REMOTE_ENV, remote_command
from pipeline_lib.storage.allowed import ALLOWED, of_a_run
from pipeline_lib.storage.dvc_cache import evict_damaged

EXIT_FILE = "R1_EXIT_FILE"
"""Environment variable: where a task writes {"exit_code", "error"} when it ends non-zero."""

STOP_GRACE_S = 30.0
"""Seconds between SIGTERM and SIGKILL: time for a training job to end its step and write its checkpoint."""

STOP_GRACE = "R1_STOP_GRACE_SECONDS"
"""Environment variable that overrides it, for models whose steps take longer."""

BUSY_PAUSES_S = (2.0, 4.0, 8.0, 16.0, 30.0)
"""Between looks whether the other stage has ended; the last one again and again."""

_SECRET_PREFIXES = ("AIRFLOW", "_AIRFLOW", "SUPERVISOR_")
_COMMAND_FAILED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True, slots=True)
class StageResult:
    """A stage that is done."""

    address: str
    how: How
    seconds: float


class StageFailed(PipelineError):
    """A stage ended without its outputs. `exit_code` is the stage's own, not DVC's."""

    def __init__(self, address: str, exit_code: int, message: str) -> None:
        self.address, self.exit_code, self.message = address, exit_code, message
        super().__init__(message)

    @property
    def preempted(self) -> bool:
        """True where the job wrote a checkpoint and asked to be started again."""
        return self.exit_code == EXIT_PREEMPTED


def inherited_environment() -> dict[str, str]:
    """Return our own environment without Airflow's secrets: what a stage, and who watches over it, may know."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_SECRET_PREFIXES)}


def stage_environment(worktree: Path, address: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a stage: ours, without Airflow's secrets, with the worktree's code first."""
    env = inherited_environment()
    venv_bin = str(Path(sys.executable).parent)
    env.update(
        PATH=os.pathsep.join([venv_bin, env.get("PATH", os.defpath)]),
        PYTHONPATH=str(worktree),
        PYTHONUNBUFFERED="1",
        SHELL="/bin/sh",
        DVC_NO_ANALYTICS="1",
        CI="true",  # DVC then leaves its progress bars out of the log
    )
    env.update(extra)
    env[ALLOWED] = of_a_run(worktree)
    env[EXIT_FILE] = str(_exit_file(worktree, address))
    env[processes.STAGE_MARK] = f"{worktree}:{address}"
    return env


class StageRun:
    """One attempt at one stage. `wait` runs it to its end; `stop` may be called from a signal handler."""

    def __init__(self, worktree: Path, address: str, env: Mapping[str, str] | None = None) -> None:
        self._worktree, self._address = worktree, address
        self._env = stage_environment(worktree, address, env or {})
        self._redact = Redactor(self._env)
        self._grace_s = float(self._env.get(STOP_GRACE, STOP_GRACE_S))
        self._process: subprocess.Popen[str] | None = None
        self._told_to_stop = threading.Event()

    def wait(self, on_line: Callable[[str], None]) -> StageResult:
        """Run the stage, hand every output line to `on_line`, return how it was done.

        With R1_REMOTE set, what it reads and what anybody computed before is fetched first, and what it wrote is pushed.

        Raises:
            StageFailed: With the stage's own exit code and message, or those of a fetch or push that failed.
        """
        try:
            self._remote("fetch", on_line)
            result = self._sound_result(on_line)
            self._remote("push", on_line)
        except StageFailed:
            self._keep_logs(on_line)
            raise
        return result

    def _remote(self, verb: str, on_line: Callable[[str], None]) -> None:
        """Fetch, or push (the logs too), where a remote is set. Outputs stay in the local cache whatever happens."""
        if not self._env.get(REMOTE_ENV) and not (verb == "push" and self._env.get(LOGS_ENV)):
            return
        self._transfer(verb, (self._address,), on_line)

    def restore(self, addresses: Sequence[str], on_line: Callable[[str], None]) -> None:
        """Bring the outs of other stages back, as dvc.lock records them: from the DVC cache, what it lacks from R1_REMOTE.

        Raises:
            StageFailed: An object is nowhere, or S3 refuses or stays away (`retry` tells which).
        """
        if addresses:
            self._transfer("restore", addresses, on_line)

    def _transfer(self, verb: str, what: Sequence[str], on_line: Callable[[str], None]) -> None:
        self._stop_leftovers(on_line)
        output = Output(self._address, on_line, self._redact)
        code = self._follow(remote_command(verb, *what), output)
        if code != 0:
            said = [line.removeprefix(ERROR_MARK) for line in output.last if line.startswith(ERROR_MARK)]
            why = said[-1] if said else "\n".join(output.last)
            raise StageFailed(self._address, code, f"{self._address}: {verb} failed: {why}")

    def _keep_logs(self, on_line: Callable[[str], None]) -> None:
        """Send the logs of an attempt that failed. Without the stage's mark: whoever stops a stage wants its log all the more."""
        if not (self._env.get(REMOTE_ENV) or self._env.get(LOGS_ENV)):
            return
        env = {name: value for name, value in self._env.items() if name != processes.STAGE_MARK}
        done = subprocess.run(
            remote_command("logs", self._address),
            cwd=self._worktree,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        for line in self._redact(done.stdout).splitlines():
            on_line(line)

    def _sound_result(self, on_line: Callable[[str], None]) -> StageResult:
        """Outputs that are not what dvc.lock says come from a damaged cache: its objects go, and the stage runs once more."""
        result = self._attempt(on_line)
        if not self._cast_out_damaged(on_line):
            return result
        self._remote("fetch", on_line)  # the remote may have it whole
        result = self._attempt(on_line)
        if self._cast_out_damaged(on_line):
            raise StageFailed(
                self._address, 1, f"{self._address}: its outputs differ from dvc.lock again; check the disk"
            )
        return result

    def _cast_out_damaged(self, on_line: Callable[[str], None]) -> bool:
        """True when an output was not what dvc.lock says; it is gone then, with the cache objects that are damaged."""
        wrong = differing_outputs(self._worktree, self._address)
        if not wrong:
            return False
        removed = evict_damaged(self._worktree, wrong)
        on_line(
            f"{', '.join(wrong)}: not what dvc.lock says; removed it and {len(removed)} damaged objects of the DVC cache, "
            f"running {self._address} again"
        )
        for path in wrong:
            remove_output(self._worktree / path)
        return True

    def _attempt(self, on_line: Callable[[str], None]) -> StageResult:
        exit_file = _exit_file(self._worktree, self._address)
        exit_file.parent.mkdir(parents=True, exist_ok=True)
        exit_file.unlink(missing_ok=True)
        self._stop_leftovers(on_line)
        dvc_locks.mend(self._worktree, on_line)
        started = time.monotonic()
        # Where the services share the machine, they must go on answering.
        repro = command_of(
            "pipeline_lib.orchestration.dvc_program", "--wait-for-lock", "repro", "--single-item"
        )
        dvc = ["nice", "-n", "5", *repro]
        for pause_s in itertools.chain(BUSY_PAUSES_S, itertools.repeat(BUSY_PAUSES_S[-1])):
            output = Output(self._address, on_line, self._redact)
            code = self._follow([*dvc, self._address], output)
            if code == 0 or not output.is_busy or self._told_to_stop.is_set():
                break
            on_line(
                f"{self._address} waits for that stage of the same run: both use these files; looking again in {pause_s:g} s"
            )
            if self._told_to_stop.wait(pause_s):
                break
            dvc_locks.mend(self._worktree, on_line)
        if code != 0:
            raise _failure(self._address, code, exit_file, output, self._redact)
        return StageResult(self._address, output.how, time.monotonic() - started)

    def _follow(self, command: Sequence[str], output: Output) -> int:
        """Run a command of the stage to its end, with all it started; returns its exit code."""
        process = self._start(command)
        watchdog = self._watch(process.pid)
        reaper = threading.Thread(target=self._stop_orphans, args=(process,), daemon=True)
        reaper.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                output.add(line.rstrip())
            return process.wait()
        finally:
            if process.poll() is None:
                self.stop()
            reaper.join()
            watchdog.communicate("done")

    def stop(self, grace_s: float | None = None) -> None:
        """Stop dvc, the stage and everything it started; returns when none of it is left."""
        self._told_to_stop.set()
        if self._process is not None:
            grace_s = self._grace_s if grace_s is None else grace_s
            processes.stop((self._process.pid,), _mark(self._worktree, self._address), grace_s)
            self._process.poll()

    def _stop_orphans(self, process: subprocess.Popen[str]) -> None:
        """Once dvc has ended nothing of its stage may go on: an orphan would hold the output open, and compute twice."""
        process.wait()
        processes.stop((process.pid,), _mark(self._worktree, self._address), self._grace_s)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            command,
            cwd=self._worktree,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        if self._told_to_stop.is_set():  # while it was being started: `stop` may not have seen it
            self.stop(grace_s=0)
        return self._process

    def _watch(self, pgid: int) -> subprocess.Popen[str]:
        script = [sys.executable, "-I", "-S", processes.__file__]
        arguments = [str(pgid), _mark(self._worktree, self._address), str(self._grace_s)]
        return subprocess.Popen(
            [*script, *arguments], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def _stop_leftovers(self, on_line: Callable[[str], None]) -> None:
        mark = _mark(self._worktree, self._address)
        left = processes.members((), mark)
        if left:
            on_line(
                f"an earlier attempt of {self._address} still runs (pids {sorted(left)}); stopping it first"
            )
            processes.stop((), mark, self._grace_s)


def _failure(address: str, dvc_code: int, exit_file: Path, output: Output, redact: Redactor) -> StageFailed:
    """Work out why a stage failed: its own account first, else what dvc says about its command."""
    if exit_file.is_file():
        report = json.loads(exit_file.read_text(encoding="utf-8"))
        return StageFailed(address, int(report["exit_code"]), redact(f"{address}: {report['error']}"))
    error = output.dvc_error
    command = _COMMAND_FAILED.search(error or "")
    code = int(command.group(1)) if command else dvc_code
    if command and code > 128:  # a shell's way to say that its command was killed
        code = 128 - code
    before = [line for line in output.last if not line.startswith(("ERROR: failed to reproduce", "> "))]
    evidence = "\n".join(before[-8:]) if command else (error or "\n".join(before[-8:]))
    what = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
    return StageFailed(address, code, f"{address} {what}:\n{evidence}")


def _exit_file(worktree: Path, address: str) -> Path:
    return worktree / ".run" / "exit" / f"{address}.json"


def _mark(worktree: Path, address: str) -> str:
    return f"{processes.STAGE_MARK}={worktree}:{address}"
