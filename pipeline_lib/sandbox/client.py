"""Run an untrusted program against tests and say what happened: the door to the sandbox (design §6).

A `Sandbox` owns one fork server, started clean by exec, so a multi-threaded trainer is never forked. A `SandboxPool` owns a
few and spreads a batch over them. Expected values stay in this process; what comes back is decoded by
`codec`, never unpickled or evaluated.

Who is to blame decides the outcome. A program that crashes, loops, sleeps or returns rubbish is WRONG. A machine that gave it
no core, or a test that cannot be run, is TIMEOUT or VERIFIER_ERROR: not the model's fault, masked and counted.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline_lib.errors import EXIT_BAD_INPUT, PipelineError
from pipeline_lib.sandbox import codec
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.sandbox.split import TestPlan, first_lines, plan_tests
from pipeline_lib.types import Outcome, Verdict

_START_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_MAX_PROGRAM_CHARS = 200_000
_REPOSITORY = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline_lib.sandbox.server import main; main(int(sys.argv[2]))"
_SELF_TEST = (
    "def f():\n    import os\n    return [os.getpid(), sorted(os.listdir('.')), sorted(dict(os.environ))]\n"
)


class SandboxUnavailable(PipelineError):
    """The kernel or the machine lacks a piece of the jail. Nothing untrusted was run."""

    exit_code = EXIT_BAD_INPUT


class _ServerLost(Exception):
    """The fork server did not answer in time, or died."""


@dataclass(frozen=True, slots=True)
class Job:
    """One program and its tests."""

    program: str
    entry_point: str
    tests: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)


class Sandbox:
    """One warm fork server. Use as a context manager, from one thread at a time.

    Raises:
        SandboxUnavailable: on entering, where any piece of the jail is missing; the message names it.
    """

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> Sandbox:
        self._start()
        # Fail closed: an empty directory, pid 1 and nothing in the environment, or no program runs.
        verdict = self.run_tests(_SELF_TEST, "f", ["assert f() == [1, [], ['LC_CTYPE']]"], Limits())
        if verdict.outcome is not Outcome.CORRECT:
            self.close()
            raise SandboxUnavailable(f"sandbox: its own check failed: {verdict.detail}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the fork server and whatever runs in it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._server is not None:
            try:
                self._server.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def run_tests(
        self, program: str, entry_point: str, tests: Sequence[str], limits: Limits | None = None
    ) -> Verdict:
        """Run `program`, then every test against its `entry_point`; stop at the first that fails.

        Raises:
            SandboxUnavailable: the jail cannot be built here.
        """
        started = time.monotonic()
        limits = limits or Limits()
        plan = plan_tests(tuple(tests), entry_point)
        verdict = _refuse_early(program, plan)
        try:
            if verdict is None and plan.split:
                verdict = self._run_split(program, entry_point, plan, limits)
            if plan.judged and (verdict is None or verdict.outcome is Outcome.CORRECT):
                verdict = self._run_judged(program, entry_point, plan, limits)
        except _ServerLost as lost:
            self.close()
            verdict = Verdict(Outcome.TIMEOUT, detail=f"sandbox: {lost}")
        assert verdict is not None
        return _timed(verdict, time.monotonic() - started)

    def _run_split(self, program: str, entry_point: str, plan: TestPlan, limits: Limits) -> Verdict:
        source = _sealed({"program": program, "entry_point": entry_point})
        ours, theirs = socket.socketpair()
        with ours:
            try:
                self._send(limits, ["program"], [source, theirs.fileno(), theirs.fileno()])
            finally:
                os.close(source)
                theirs.close()
            talk = _Conversation(ours, limits)
            verdict = _converse(talk, plan)
        end = self._finish(limits)
        return verdict if verdict is not None else _blame(end, limits, _next_test(plan, talk.answered), talk)

    def _run_judged(self, program: str, entry_point: str, plan: TestPlan, limits: Limits) -> Verdict:
        source = _sealed({"program": program, "entry_point": entry_point})
        tests = _sealed({"tests": list(plan.judged), "entry_point": entry_point})
        ours, theirs = socket.socketpair()
        program_end, judge_end = socket.socketpair()
        with ours:
            try:
                pipe = program_end.fileno()
                self._send(
                    limits,
                    ["program", "judge"],
                    [source, pipe, pipe, tests, judge_end.fileno(), theirs.fileno()],
                )
            finally:
                os.close(source)
                os.close(tests)
                for end in (theirs, program_end, judge_end):
                    end.close()
            talk = _Conversation(ours, limits)
            verdict = _read_judge(talk, plan)
        end_state = self._finish(limits)
        if verdict is not None:
            return verdict
        judge_died = not end_state["deadline"] and end_state["ended"][1]["code"] != 0
        if judge_died:
            return Verdict(Outcome.TIMEOUT, detail="sandbox: the test code itself ran out of its limits")
        return _blame(end_state, limits, _judged_line(plan, talk.answered), talk)

    def _send(self, limits: Limits, roles: list[str], fds: list[int]) -> None:
        if self._server is None or self._server.poll() is not None:
            self.close()
            self._start()
        assert self._control is not None
        message = json.dumps({"limits": asdict(limits), "roles": roles}).encode()
        try:
            socket.send_fds(self._control, [message], fds)
        except OSError as error:
            raise _ServerLost(f"the fork server is gone: {error}") from error

    def _finish(self, limits: Limits) -> dict[str, Any]:
        reply = self._receive(limits.wall_seconds + _GRACE_SECONDS)
        if "refused" in reply:
            raise SandboxUnavailable(f"sandbox: the kernel refused {reply['refused']}")
        return reply

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self._control is not None
        if not select.select([self._control], [], [], seconds)[0]:
            raise _ServerLost("the fork server does not answer")
        message = self._control.recv(65536)
        if not message:
            raise _ServerLost("the fork server ended")
        reply = json.loads(message)
        assert isinstance(reply, dict)
        return reply

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [
                    os.path.realpath(sys.executable),
                    "-I",
                    "-S",
                    "-B",
                    "-c",
                    _BOOT,
                    _REPOSITORY,
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={"LC_CTYPE": "C.UTF-8"},
                cwd="/",
                pass_fds=[theirs.fileno()],
            )
        self._control = ours
        try:
            reply = self._receive(_START_SECONDS)
        except _ServerLost as lost:
            self._server.kill()
            assert self._server.stderr is not None
            tail = self._server.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            self.close()
            raise SandboxUnavailable(f"sandbox: {lost} {' '.join(tail)}".strip()) from lost
        if "refused" in reply:
            self.close()
            raise SandboxUnavailable(f"sandbox: the kernel refused {reply['refused']}")


class _Conversation:
    """Frames from a jail, with a deadline and a cap on how much is read."""

    def __init__(self, channel: socket.socket, limits: Limits) -> None:
        self._channel = channel
        self._deadline = time.monotonic() + limits.wall_seconds
        self._left = limits.output_bytes
        self._buffer = codec.FrameBuffer()
        self._frames: list[Any] = []
        self.answered = 0
        self.trouble = ""
        """What the jail sent that a well-behaved one never does."""

    def ask(self, frame: dict[str, Any]) -> None:
        """Send a call; a program that is gone shows at the next `read`."""
        try:
            self._channel.settimeout(max(0.01, self._deadline - time.monotonic()))
            self._channel.sendall(codec.pack(frame))
        except OSError:
            pass

    def read(self) -> dict[str, Any] | None:
        """The next frame; None when the jail is silent until the deadline, gone, or talks nonsense."""
        while not self._frames:
            wait = self._deadline - time.monotonic()
            if wait <= 0 or not select.select([self._channel], [], [], wait)[0]:
                return None
            try:
                data = self._channel.recv(65536)
            except OSError:
                return None
            if not data:
                return None
            self._left -= len(data)
            if self._left < 0:
                self.trouble = "it returned more than the output limit"
                return None
            try:
                self._frames += self._buffer.feed(data)
            except codec.CodecError as error:
                self.trouble = f"what it returned cannot be read: {error}"
                return None
        frame = self._frames.pop(0)
        if not isinstance(frame, dict):
            self.trouble = "what it returned cannot be read"
            return None
        return frame


def _converse(talk: _Conversation, plan: TestPlan) -> Verdict | None:
    """Lead the program through its tests. None: it fell silent; how it ended will say why."""
    first = talk.read()
    if first is not None and "refused" in first:
        raise SandboxUnavailable(f"sandbox: the kernel refused {first['refused']}")
    loaded = talk.read() if first is not None else None
    if loaded is None:
        return None
    if "loaded" not in loaded:
        return Verdict(Outcome.WRONG, failed_test=plan.split[0].source, detail=f"loading: {_text(loaded)}")
    for test in plan.split:
        talk.ask({"eval": test.expression})
        answer = talk.read()
        if answer is None:
            return None
        if "value" not in answer:
            return Verdict(Outcome.WRONG, failed_test=test.source, detail=_text(answer))
        try:
            passed = test.holds(answer["value"])
        except codec.CodecError as error:
            return Verdict(Outcome.WRONG, failed_test=test.source, detail=f"not equal: {error}")
        if not passed:
            return Verdict(
                Outcome.WRONG, failed_test=test.source, detail=f"returned {_shown(answer['value'])}"
            )
        talk.answered += 1
    return Verdict(Outcome.CORRECT)


def _read_judge(talk: _Conversation, plan: TestPlan) -> Verdict | None:
    first = talk.read()
    if first is not None and "refused" in first:
        raise SandboxUnavailable(f"sandbox: the kernel refused {first['refused']}")
    while first is not None and talk.answered < len(plan.judged):
        frame = talk.read()
        if frame is None:
            return None
        if "verifier_error" in frame:
            return Verdict(Outcome.VERIFIER_ERROR, detail=str(frame["verifier_error"])[:300])
        if frame.get("passed") != talk.answered:
            return Verdict(Outcome.WRONG, failed_test=_judged_line(plan, talk.answered), detail=_text(frame))
        talk.answered += 1
    return Verdict(Outcome.CORRECT) if first is not None else None


def _blame(end: dict[str, Any], limits: Limits, test: str | None, talk: _Conversation) -> Verdict:
    """Why a program fell silent, and whose fault it was."""
    state = end["ended"][0]
    if talk.trouble:
        return Verdict(Outcome.WRONG, failed_test=test, detail=talk.trouble)
    if end["deadline"] and end["starved"]:
        return Verdict(
            Outcome.TIMEOUT, failed_test=test, detail="the machine gave the program no core in time"
        )
    if end["deadline"]:
        return Verdict(
            Outcome.WRONG, failed_test=test, detail=f"still running after {limits.wall_seconds:g} s"
        )
    if state["code"] == -9 and state["cpu"] >= limits.cpu_seconds - 0.2:
        return Verdict(
            Outcome.WRONG, failed_test=test, detail=f"used its {limits.cpu_seconds} s of processor time"
        )
    return Verdict(
        Outcome.WRONG, failed_test=test, detail=f"the program ended early (exit code {state['code']})"
    )


def _refuse_early(program: str, plan: TestPlan) -> Verdict | None:
    if plan.problem:
        return Verdict(Outcome.VERIFIER_ERROR, detail=plan.problem)
    if not plan.split and not plan.judged:
        return Verdict(Outcome.VERIFIER_ERROR, detail="the problem has no tests")
    if len(program) > _MAX_PROGRAM_CHARS:
        return Verdict(Outcome.WRONG, detail=f"the program is longer than {_MAX_PROGRAM_CHARS} characters")
    return None


def _next_test(plan: TestPlan, answered: int) -> str | None:
    return plan.split[answered].source if answered < len(plan.split) else None


def _judged_line(plan: TestPlan, index: int) -> str | None:
    lines = list(first_lines(plan.judged))
    return lines[index] if index < len(lines) else None


def _text(frame: dict[str, Any]) -> str:
    return str(frame.get("error", "it answered out of turn"))[:300]


def _shown(form: object) -> str:
    try:
        return repr(codec.decode(form, max_nodes=50))[:200]
    except (codec.CodecError, ValueError):
        return "a large value"


def _timed(verdict: Verdict, seconds: float) -> Verdict:
    return Verdict(verdict.outcome, verdict.extracted, verdict.failed_test, verdict.detail, seconds)


def _sealed(message: dict[str, Any]) -> int:
    """A memory file holding one frame, rewound: the fork server passes it on without reading it."""
    fd = os.memfd_create("request", os.MFD_CLOEXEC)
    codec.write_frame(fd, message)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class SandboxPool:
    """A few sandboxes that share a batch. Use as a context manager; `run_batch` may be called from any thread."""

    def __init__(self, workers: int = 2) -> None:
        if workers < 1:
            raise ValueError(f"workers = {workers}: must be at least 1")
        self._free: queue.Queue[Sandbox] = queue.Queue()
        self._sandboxes = [Sandbox() for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> SandboxPool:
        for sandbox in self._sandboxes:
            self._free.put(sandbox.__enter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every fork server."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def run_batch(self, jobs: Sequence[Job], deadline_seconds: float | None = None) -> list[Verdict]:
        """A verdict per job, in order. A job that has not begun when the deadline passes is a TIMEOUT."""
        until = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        return list(self._threads.map(lambda job: self._run(job, until), jobs))

    def _run(self, job: Job, until: float | None) -> Verdict:
        if until is not None and time.monotonic() >= until:
            return Verdict(Outcome.TIMEOUT, detail="the batch ran out of time before this program began")
        sandbox = self._free.get()
        try:
            return sandbox.run_tests(job.program, job.entry_point, job.tests, job.limits)
        finally:
            self._free.put(sandbox)


_shared: dict[int, Sandbox] = {}
_shared_lock = threading.Lock()


def run_tests(program: str, entry_point: str, tests: Sequence[str], limits: Limits | None = None) -> Verdict:
    """`Sandbox.run_tests` on a sandbox that this process starts once and closes at its exit."""
    with _shared_lock:
        sandbox = _shared.get(os.getpid())
        if sandbox is None:
            _shared.clear()  # a forked child must not talk to its parent's server
            sandbox = _shared[os.getpid()] = Sandbox().__enter__()
            atexit.register(sandbox.close)
        return sandbox.run_tests(program, entry_point, tests, limits)
