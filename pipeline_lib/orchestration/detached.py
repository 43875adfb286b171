"""A stage that outlives whoever started it: found again by its name, followed through its files.

A stage runs below a process of its own session (`supervise`), which keeps a lock for as long as it lives and leaves
its log, a heartbeat and, at the end, its outcome in files below the worktree. So an Airflow worker, a trigger, or the
next attempt after either was killed can follow it, from any machine that sees the worktree. The lock is the only
record of what runs: nobody stores a process id, so none can be stale, and starting twice finds the first
(`docs/decisions/0014-detached-stages.md`).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.orchestration.programs import ROOT
from pipeline_lib.orchestration.runner import StageFailed, StageResult, inherited_environment
from pipeline_lib.storage.atomic import write_json

LOST_AFTER_S = 15.0
"""A stage whose heartbeat has not moved for so long, whose lock is free and which left no outcome, is lost."""

REPEATED_S = 10.0
"""A new reader of a log begins this long before the last line that the one before it is known to have passed on."""

_CHUNK = 1 << 20
_SOURCE = str(ROOT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt at a stage ended."""

    exit_code: int
    """The stage's own; 0 when its outputs are there."""
    message: str = ""
    """Why it failed."""
    how: str | None = None
    """A value of `How` when it did not."""
    seconds: float = 0.0

    def result(self, address: str) -> StageResult:
        """Return the result of a stage that is done.

        Raises:
            StageFailed: With the stage's own exit code and message.
        """
        if self.how is None:
            raise StageFailed(address, self.exit_code, self.message)
        return StageResult(address, How(self.how), self.seconds)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that runs a stage, or ran it. Everything known of it is in `folder`."""

    worktree: Path
    address: str
    id: str

    @property
    def folder(self) -> Path:
        """Where its files are; gone once a later attempt was started."""
        return _state(self.worktree, self.address) / self.id

    @property
    def heartbeat(self) -> Path:
        """Touched by the stage's supervisor as long as it lives."""
        return self.folder / "heartbeat"

    @property
    def attended(self) -> Path:
        """Touched by whoever follows it: a stage that nobody wants to know of any more does not run on for ever."""
        return self.folder / "attended"

    @property
    def outcome_file(self) -> Path:
        """Written once, whole, when all of the stage has ended."""
        return self.folder / "outcome.json"

    def outcome(self) -> Outcome | None:
        """Return how it ended, or None while it runs or when it never could say."""
        try:
            return Outcome(**json.loads(self.outcome_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def leave_outcome(self, outcome: Outcome) -> None:
        """Write how it ended."""
        write_json(self.outcome_file, asdict(outcome))

    def ask_to_stop(self) -> None:
        """Ask for SIGTERM and, after its grace, SIGKILL to the stage; returns at once. The outcome tells when it is over."""
        if self.folder.is_dir():
            (self.folder / "stop").touch()

    def asked_to_stop(self) -> bool:
        """True once somebody has asked for it."""
        return (self.folder / "stop").exists()


def start(worktree: Path, address: str, env: Mapping[str, str], on_line: Callable[[str], None]) -> Attempt:
    """Return the attempt that runs the stage, after starting one if there is none.

    One that is on its way out (asked to stop, or with its outcome written) is waited for: at most the grace it gives.
    """
    said = False
    while True:
        with _door(worktree, address):
            lock = _take(worktree, address)
            if lock is not None:
                try:
                    return _spawn(worktree, address, env, lock)
                finally:
                    os.close(lock)
            running = _current(worktree, address)
        if running is not None and not running.asked_to_stop() and running.outcome() is None:
            on_line(f"{address} already runs (process {running.id}); following it")
            return running
        if not said:
            on_line(f"an earlier process of {address} is still ending; waiting for it")
            said = True
        time.sleep(0.2)


class Follower:
    """Reads what an attempt says, line by line, and learns how it ends. Touches `attended` at each look.

    Args:
        attempt: Whom to follow.
        reader: A name under which the place in the log is kept, so that a reader that takes over after a kill goes on
            there: no line is lost, those of the last seconds may come twice. Without one it begins at the first line.
    """

    def __init__(self, attempt: Attempt, reader: str | None = None) -> None:
        self._attempt = attempt
        self._place = attempt.folder / f"read-{reader}" if reader else None
        self._offset = int(self._place.read_text()) if self._place and self._place.exists() else 0
        self._passed: deque[tuple[float, int]] = deque()
        self._beat: tuple[int, float] = (0, time.monotonic())
        self._name = uuid.uuid4().hex
        if attempt.folder.is_dir():
            (attempt.folder / "follower").write_text(self._name)

    def superseded(self) -> bool:
        """True once somebody else has begun to follow the attempt."""
        file = self._attempt.folder / "follower"
        return file.exists() and file.read_text() != self._name

    def poll(self) -> tuple[list[str], Outcome | None]:
        """Return the new lines (all that were returned before are taken to be passed on), and the outcome after the last."""
        self._remember()
        if not self._attempt.folder.is_dir():
            return [], _lost(self._attempt.address, "a later attempt has taken its place")
        self._attempt.attended.touch()
        outcome = self._attempt.outcome() or self._outcome_of_the_silent()
        lines, more = self._read(outcome is not None)
        return lines, None if more else outcome

    def _read(self, ended: bool) -> tuple[list[str], bool]:
        """Return whole lines (also half a one where nothing will follow), and whether there are more."""
        path = log_path(self._attempt.worktree, self._attempt.address)
        try:
            with path.open("rb") as log:
                log.seek(self._offset)
                chunk = log.read(_CHUNK)
        except FileNotFoundError:
            return [], False
        more = len(chunk) == _CHUNK
        whole = chunk if ended and not more else chunk[: chunk.rfind(b"\n") + 1]
        whole = whole or (chunk if more else b"")  # a line longer than a chunk
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines(), more

    def _remember(self) -> None:
        """Write down how far the log was passed on a while ago; what is younger may still be lost on its way."""
        if self._place is None:
            return
        now = time.monotonic()
        self._passed.append((now, self._offset))
        known = None
        while self._passed and self._passed[0][0] <= now - REPEATED_S:
            known = self._passed.popleft()[1]
        if known is not None:
            self._note(self._place, known)

    def leave(self) -> None:
        """Let a reader of the same name go on exactly here: for one that lives to see its lines arrive."""
        if self._place is not None:
            self._note(self._place, self._offset)

    def _note(self, place: Path, offset: int) -> None:
        if self._attempt.folder.is_dir():
            temporary = place.with_suffix(".tmp")
            temporary.write_text(str(offset))
            temporary.replace(place)

    def _outcome_of_the_silent(self) -> Outcome | None:
        """Told by our own clock: the clocks of two machines differ, and one may jump."""
        beat = self._attempt.heartbeat.stat().st_mtime_ns
        if beat != self._beat[0]:
            self._beat = (beat, time.monotonic())
        if time.monotonic() - self._beat[1] < LOST_AFTER_S or _lives(self._attempt):
            return None
        log = self._attempt.folder / "supervisor.log"
        words = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
        return self._attempt.outcome() or _lost(
            self._attempt.address, f"killed, or its machine went down\n{words}"
        )


def log_path(worktree: Path, address: str) -> Path:
    """Return the file that holds the output of the latest attempt at a stage."""
    return worktree / ".run" / "log" / f"{address}.log"


def _lost(address: str, why: str) -> Outcome:
    return Outcome(exit_code=1, message=f"{address}: its process is gone and left no outcome: {why.strip()}")


def _spawn(worktree: Path, address: str, env: Mapping[str, str], lock: int) -> Attempt:
    """Start the supervisor. It inherits the lock, so there is no moment at which a second one could start."""
    attempt = Attempt(worktree, address, uuid.uuid4().hex[:12])
    state = _state(worktree, address)
    for earlier in state.iterdir():
        if earlier.is_dir():
            shutil.rmtree(earlier)
    log_path(worktree, address).unlink(missing_ok=True)  # or a quick follower reads the attempt before's
    attempt.folder.mkdir()
    attempt.heartbeat.touch()
    attempt.attended.touch()
    (state / "current").write_text(attempt.id, encoding="utf-8")
    module = (
        sys.executable,
        "-P",
        "-m",
        "pipeline_lib.orchestration.supervise",
    )  # -P: this code, whatever lies about
    with (attempt.folder / "supervisor.log").open("wb") as log:
        subprocess.Popen(
            [*module, str(worktree), address, attempt.id, str(lock)],
            cwd=_SOURCE,
            env={**inherited_environment(), **env, "PYTHONPATH": _SOURCE},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,
        )
    return attempt


def _current(worktree: Path, address: str) -> Attempt | None:
    file = _state(worktree, address) / "current"
    return Attempt(worktree, address, file.read_text(encoding="utf-8").strip()) if file.exists() else None


def _lives(attempt: Attempt) -> bool:
    with _door(attempt.worktree, attempt.address):
        lock = _take(attempt.worktree, attempt.address)
        if lock is not None:
            os.close(lock)
        return lock is None


def _take(worktree: Path, address: str) -> int | None:
    """Return the stage's lock, or None while a process holds it. Only behind the door, so that a look is not taken for a process."""
    handle = os.open(_state(worktree, address) / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


@contextmanager
def _door(worktree: Path, address: str) -> Iterator[None]:
    """One at a time looks at the lock or starts a process: milliseconds."""
    with (_state(worktree, address) / "door").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _state(worktree: Path, address: str) -> Path:
    folder = worktree / ".run" / "stage" / address
    folder.mkdir(parents=True, exist_ok=True)
    return folder
