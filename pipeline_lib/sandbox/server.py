"""The fork server: a clean, warm, one-thread interpreter that clones one jailed child (or two) per program.

It is started by exec, never by a fork of the trainer, with an empty environment and one descriptor: its control socket
(SOCK_SEQPACKET). It never reads a program, an input or an expected value: those arrive in descriptors that it passes on
unread, so one child's memory holds nothing of another's. Protocol, one JSON message each way per program:

    -> {"limits": {...}, "roles": ["program"] or ["program", "judge"]}  with three descriptors per role
    <- {"ended": [{"code", "signal", "cpu"}...], "deadline": bool, "starved": bool}

The first message it sends, unasked, is {"up": true} or {"refused": "which kernel piece is missing"}.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from pipeline_lib.sandbox import codec, harness, jail, judge, kernel

_PRELOADED = (
    "abc bisect calendar cmath collections contextlib copy dataclasses datetime decimal enum fractions functools hashlib "
    "heapq inspect itertools json math numbers operator queue random re statistics string struct textwrap time types typing "
    "unicodedata zlib"
)
_PARENT_CHECK_SECONDS = 2.0
_FIRST_FD = 3


def main(control_fd: int) -> None:
    """Serve until the control socket closes or the trainer is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    trainer = os.getppid()
    for name in _PRELOADED.split():
        __import__(name)
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    try:
        prepared = jail.build_root(os.path.dirname(os.__file__))
    except OSError as error:
        control.send(json.dumps({"refused": _reason(error)}).encode())
        return
    sys.path[:] = [prepared.stdlib, f"{prepared.stdlib}/lib-dynload"]
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(b'{"up": true}')
    while True:
        if not select.select([control], [], [], _PARENT_CHECK_SECONDS)[0]:
            if os.getppid() != trainer:
                return
            continue
        message, fds, _, _ = socket.recv_fds(control, 65536, 8)
        if not message:
            return
        try:
            reply = _run(json.loads(message), list(fds), prepared, control, proc)
        except OSError as error:
            reply = {"refused": _reason(error)}
        control.send(json.dumps(reply).encode())


def _run(
    request: dict[str, Any], fds: list[int], prepared: jail.Jail, control: socket.socket, proc: int
) -> dict[str, Any]:
    limits = request["limits"]
    started = time.monotonic()
    children: list[tuple[int, int]] = []
    for index, role in enumerate(request["roles"]):
        pid, pidfd = kernel.clone(jail.CHILD_NAMESPACES)
        if pid == 0:
            _become(role, fds[3 * index : 3 * index + 3], prepared, limits)
        children.append((pid, pidfd))
    for fd in fds:
        os.close(fd)
    deadline = started + limits["wall_seconds"]
    waiting = {pidfd for _, pidfd in children}
    late = False
    poll = select.poll()
    poll.register(control, select.POLLIN | select.POLLHUP)
    for pidfd in waiting:
        poll.register(pidfd, select.POLLIN)
    while waiting:
        events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        ready = {fd for fd, _ in events}
        if not events or control.fileno() in ready:  # too late, or the client has seen enough
            late = not events
            break
        for pidfd in ready:
            waiting.discard(pidfd)
            poll.unregister(pidfd)
    starved = late and any(
        _starved(proc, pid, time.monotonic() - started) for pid, pidfd in children if pidfd in waiting
    )
    for pidfd in waiting:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    ended = []
    for pid, pidfd in children:
        _, status, usage = os.wait4(pid, 0)
        os.close(pidfd)
        ended.append(
            {
                "code": os.waitstatus_to_exitcode(status),
                "cpu": usage.ru_utime + usage.ru_stime,
            }
        )
    return {"ended": ended, "deadline": late, "starved": starved}


def _starved(proc: int, pid: int, elapsed: float) -> bool:
    """True when the process wanted a core and did not get one for half of its time: our fault, not the program's."""
    try:
        fd = os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=proc)
    except OSError:
        return False
    try:
        fields = os.read(fd, 200).split()
    finally:
        os.close(fd)
    return len(fields) > 1 and int(fields[1]) / 1e9 > elapsed / 2


def _reason(error: BaseException) -> str:
    """`kernel` puts the missing piece into strerror; any other error is told whole."""
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


def _become(role: str, fds: list[int], prepared: jail.Jail, limits: dict[str, Any]) -> None:
    """In the child: lock down, then serve. Never returns."""
    results = fds[2]
    try:
        high = [os.dup2(fd, 20 + number) for number, fd in enumerate(fds)]
        null = os.open("/dev/null", os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        source, calls, results = (os.dup2(fd, _FIRST_FD + number) for number, fd in enumerate(high))
        kernel.close_from(_FIRST_FD + 3)
        jail.lock_down(
            prepared,
            cpu_seconds=limits["cpu_seconds"],
            memory_bytes=limits["memory_bytes"],
            file_bytes=limits["file_bytes"],
            open_files=limits["open_files"],
        )
    except BaseException as error:
        codec.write_frame(results, {"refused": _reason(error)})
        os._exit(1)
    try:
        gc.enable()
        (harness if role == "program" else judge).serve(source, calls, results)
    finally:
        os._exit(0)
