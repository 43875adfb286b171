"""Talk to a jailed program (or to the judge beside it), and say why it fell silent.

The client's half of the protocol of `harness` and `judge`: frames with a deadline and a cap on how much is read.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from typing import Any

from pipeline_lib.errors import EXIT_BAD_INPUT, PipelineError
from pipeline_lib.sandbox import codec
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.sandbox.split import TestPlan, first_lines
from pipeline_lib.types import Outcome, Verdict


class SandboxUnavailable(PipelineError):
    """The kernel or the machine lacks a piece of the jail. Nothing untrusted was run."""

    exit_code = EXIT_BAD_INPUT


class Interrupted(Exception):
    """Something that the program did not do ended its run; `verdict` is what to say where it happens again."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.detail)
        self.verdict = verdict


class Conversation:
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


def converse(talk: Conversation, plan: TestPlan) -> Verdict | None:
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


def read_judge(talk: Conversation, plan: TestPlan) -> Verdict | None:
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
            return Verdict(Outcome.WRONG, failed_test=judged_line(plan, talk.answered), detail=_text(frame))
        talk.answered += 1
    return Verdict(Outcome.CORRECT) if first is not None else None


def blame(end: dict[str, Any], limits: Limits, test: str | None, talk: Conversation) -> Verdict:
    """Why a program fell silent, and whose fault it was.

    Raises:
        Interrupted: somebody killed it, or it got no core: nothing it did itself.
    """
    state = end["ended"][0]
    if talk.trouble:
        return Verdict(Outcome.WRONG, failed_test=test, detail=talk.trouble)
    if end["deadline"] and end["starved"]:
        detail = "the machine gave the program no core in time"
        raise Interrupted(Verdict(Outcome.TIMEOUT, failed_test=test, detail=detail))
    if end["deadline"]:
        return Verdict(
            Outcome.WRONG, failed_test=test, detail=f"still running after {limits.wall_seconds:g} s"
        )
    if state["code"] == -signal.SIGKILL and not killed(state, limits):
        return Verdict(
            Outcome.WRONG, failed_test=test, detail=f"used its {limits.cpu_seconds} s of processor time"
        )
    verdict = Verdict(
        Outcome.WRONG, failed_test=test, detail=f"the program ended early (exit code {state['code']})"
    )
    if killed(state, limits):
        raise Interrupted(verdict)
    return verdict


def killed(state: dict[str, Any], limits: Limits) -> bool:
    """True when a jailed process that was in time got SIGKILL: from outside, for pid 1 of a namespace cannot do it."""
    return state["code"] == -signal.SIGKILL and state["cpu"] < limits.cpu_seconds - 0.2


def next_test(plan: TestPlan, answered: int) -> str | None:
    return plan.split[answered].source if answered < len(plan.split) else None


def judged_line(plan: TestPlan, index: int) -> str | None:
    lines = list(first_lines(plan.judged))
    return lines[index] if index < len(lines) else None


def _text(frame: dict[str, Any]) -> str:
    return str(frame.get("error", "it answered out of turn"))[:300]


def _shown(form: object) -> str:
    try:
        return repr(codec.decode(form, max_nodes=50))[:200]
    except (codec.CodecError, ValueError):
        return "a large value"
