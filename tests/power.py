"""Power cut, as far as a test can bring one about: many processes die, and none of them learns of another's death."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psutil


def cut_power(mine: Callable[[psutil.Process], bool]) -> list[str]:
    """Stop every process that `mine` says yes to, kill them all; return their command lines.

    They are looked for until a look finds no new one: one that was being started when its parent was stopped is found by
    the next. They are not waited for (`psutil.wait_procs`): the exit code of a test's own child is for its Popen to fetch.
    One that ends by itself under the look (a poller's `squeue`) is nobody's loss.
    """
    stopped: dict[int, tuple[psutil.Process, str]] = {}
    while found := [
        process for process in psutil.process_iter() if process.pid not in stopped and _is(process, mine)
    ]:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                stopped[process.pid] = process, " ".join(process.cmdline())
    for process, _ in stopped.values():
        process.kill()
    deadline = time.monotonic() + 60
    while any(
        _is(process, lambda left: left.status() != psutil.STATUS_ZOMBIE) for process, _ in stopped.values()
    ):
        assert time.monotonic() < deadline, "killed, and still there"
        time.sleep(0.05)
    return [command for _, command in stopped.values()]


def _is(process: psutil.Process, mine: Callable[[psutil.Process], bool]) -> bool:
    with contextlib.suppress(psutil.Error):
        return mine(process)
    return False
