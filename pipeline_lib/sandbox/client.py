"""Run an untrusted program against tests and say what happened: the door to the sandbox (design §6).

A `Sandbox` owns one fork server, started clean by exec, so a multi-threaded trainer is never forked. `pool` spreads a batch
over a few. Expected values stay in this process; what comes back is decoded by
`codec`, never unpickled or evaluated.

Who is to blame decides the outcome. A program that crashes, loops, sleeps or returns rubbish is WRONG. A machine that gave it
no core, or a test that cannot be run, is TIMEOUT or VERIFIER_ERROR: not the model's fault, masked and counted.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline_lib.sandbox import codec
from pipeline_lib.sandbox.conversation import (
    Conversation,
    Interrupted,
    SandboxUnavailable,
    blame,
    converse,
    judged_line,
    killed,
    next_test,
    read_judge,
)
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.sandbox.split import TestPlan, plan_tests
from pipeline_lib.types import Outcome, Verdict

_START_SECONDS = 60.0
_GRACE_SECONDS = 5.0
_MAX_PROGRAM_CHARS = 200_000
_ATTEMPTS = 2
"""A program that was interrupted runs again: it is not judged by what happened to its jail."""
_REPOSITORY = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline_lib.sandbox.server import main; main(int(sys.argv[2]))"
_SELF_TEST = (
    "def f():\n    import os\n    return [os.getpid(), sorted(os.listdir('.')), sorted(dict(os.environ))]\n"
)


class _ServerLost(Interrupted):
    """The fork server did not answer in time, or died."""

    def __init__(self, why: str) -> None:
        super().__init__(Verdict(Outcome.TIMEOUT, detail=f"sandbox: {why}"))


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
        for _ in range(_ATTEMPTS):
            try:
                verdict = self._judge(program, entry_point, plan, limits)
                break
            except Interrupted as interrupted:
                if isinstance(interrupted, _ServerLost):
                    self.close()
                verdict = interrupted.verdict
        return _timed(verdict, time.monotonic() - started)

    def _judge(self, program: str, entry_point: str, plan: TestPlan, limits: Limits) -> Verdict:
        verdict = _refuse_early(program, plan)
        if verdict is None and plan.split:
            verdict = self._run_split(program, entry_point, plan, limits)
        if plan.judged and (verdict is None or verdict.outcome is Outcome.CORRECT):
            verdict = self._run_judged(program, entry_point, plan, limits)
        assert verdict is not None
        return verdict

    def _run_split(self, program: str, entry_point: str, plan: TestPlan, limits: Limits) -> Verdict:
        source = _sealed({"program": program, "entry_point": entry_point})
        ours, theirs = socket.socketpair()
        with ours:
            try:
                self._send(limits, ["program"], [source, theirs.fileno(), theirs.fileno()])
            finally:
                os.close(source)
                theirs.close()
            talk = Conversation(ours, limits)
            verdict = converse(talk, plan)
        end = self._finish(limits)
        return verdict if verdict is not None else blame(end, limits, next_test(plan, talk.answered), talk)

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
                for side in (theirs, program_end, judge_end):
                    side.close()
            talk = Conversation(ours, limits)
            verdict = read_judge(talk, plan)
        end = self._finish(limits)
        if verdict is None and not end["deadline"] and end["ended"][1]["code"] != 0:
            verdict = Verdict(Outcome.TIMEOUT, detail="sandbox: the test code itself ran out of its limits")
        elif verdict is None:
            return blame(end, limits, judged_line(plan, talk.answered), talk)
        interrupted = not end["deadline"] and any(killed(state, limits) for state in end["ended"])
        if interrupted and verdict.outcome is not Outcome.CORRECT:
            raise Interrupted(verdict)
        return verdict

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


def _refuse_early(program: str, plan: TestPlan) -> Verdict | None:
    if plan.problem:
        return Verdict(Outcome.VERIFIER_ERROR, detail=plan.problem)
    if not plan.split and not plan.judged:
        return Verdict(Outcome.VERIFIER_ERROR, detail="the problem has no tests")
    if len(program) > _MAX_PROGRAM_CHARS:
        return Verdict(Outcome.WRONG, detail=f"the program is longer than {_MAX_PROGRAM_CHARS} characters")
    return None


def _timed(verdict: Verdict, seconds: float) -> Verdict:
    return Verdict(verdict.outcome, verdict.extracted, verdict.failed_test, verdict.detail, seconds)


def _sealed(message: dict[str, Any]) -> int:
    """A memory file holding one frame, rewound: the fork server passes it on without reading it."""
    fd = os.memfd_create("request", os.MFD_CLOEXEC)
    codec.write_frame(fd, message)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


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
