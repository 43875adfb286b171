"""A clean process that keeps math-verify loaded and judges one answer at a time in a forked child.

Why not in the trainer: math-verify stops runaway algebra with SIGALRM, which never fires off the main thread, and sympy can
hold a core (or all memory) for hours on `9^9^9^9`. Here the deadline is a SIGKILL. The parent of the fork stays
clean, so replacing a killed child takes milliseconds instead of the five seconds that importing sympy takes.

Only LaTeX parsing is used. math-verify's plain-expression path ends in sympy's `parse_expr`, which evaluates Python;
no text of a model goes there.

Frames in: `{"gold", "answer", "seconds"}`. Out: `{"result": "equal" | "different" | "gold_unparsed" | "unparsed" |
"timeout" | "error", "detail"}`. Started by `math_pool`, by exec, with stdin and stdout as the channel.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import select
import signal
import socket
import time
from typing import Any

from pipeline_lib.sandbox import codec
from pipeline_lib.startup import uncollected

WALL_FACTOR = 4.0
"""A comparison may wait this many times its deadline for a core."""
ATTEMPTS = 2
"""A comparison whose process was killed is made again: an answer is not judged by what happened to its verifier."""
DIED = {"result": "error", "detail": "the verifier process died"}
_PR_SET_PDEATHSIG = 1
_CPUCLOCK_SCHED = 2
_MEMORY_BYTES = 3 * 1024**3


def main() -> None:
    """Serve until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    with uncollected():
        from pipeline_lib.rewards._algebra import judge

    judge("1", "1")  # the grammar tables load on first use
    channel = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    codec.write_frame(channel, {"up": True})
    child: tuple[int, socket.socket] | None = None
    while (request := codec.read_frame(0)) is not None:
        wall_end = time.monotonic() + WALL_FACTOR * float(request["seconds"])
        for _ in range(ATTEMPTS):
            child = child or _fork()
            reply = _ask(*child, request, wall_end)
            if reply["result"] in ("timeout", "error"):
                _end(child)
                child = None
            if reply != DIED:
                break
        codec.write_frame(channel, reply)
    if child is not None:
        _end(child)


def _fork() -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    ours.close()
    os.close(0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        while (request := codec.read_frame(theirs.fileno())) is not None:
            codec.write_frame(theirs.fileno(), _attempt(request))
    finally:
        os._exit(0)


def _ask(pid: int, channel: socket.socket, request: dict[str, Any], wall_end: float) -> dict[str, Any]:
    """The child's reply, a timeout past the deadline, `DIED` when it is gone.

    The deadline counts the child's processor time, so that a busy machine masks no samples; `wall_end` is the end in any
    case.
    """
    limit = float(request["seconds"])
    try:
        processor_end = _processor_seconds(pid) + limit
        codec.write_frame(channel.fileno(), request)
        while True:
            left = min(processor_end - _processor_seconds(pid), wall_end - time.monotonic())
            if select.select([channel], [], [], max(0.0, left))[0]:
                break
            if left <= 0:
                return {"result": "timeout", "detail": f"no result in {limit} s of processor time"}
        reply = codec.read_frame(channel.fileno())
    except (OSError, codec.CodecError):
        return DIED
    return reply if isinstance(reply, dict) else DIED


def _processor_seconds(pid: int) -> float:
    """Processor time of another process: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def _end(child: tuple[int, socket.socket]) -> None:
    pid, channel = child
    channel.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _attempt(request: dict[str, Any]) -> dict[str, Any]:
    try:
        from pipeline_lib.rewards._algebra import judge

        return {"result": judge(request["gold"], request["answer"]), "detail": ""}
    except (
        BaseException
    ) as error:  # sympy raises anything, and a RecursionError or MemoryError must not end the child
        return {"result": "error", "detail": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    main()
