"""The sandbox and the machine under it: on a kernel that lacks a piece nothing runs, and a storm of attacks leaves it as fast.

A missing piece is made missing by a seccomp filter around the whole process tree: the kernel then answers ENOSYS or EPERM, as one
without it does.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline_lib.sandbox import jail, kernel
from pipeline_lib.sandbox.client import Sandbox
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Outcome
from tests.security import attacks

REPOSITORY = Path(__file__).resolve().parents[2]
LIMITS = Limits(cpu_seconds=1, wall_seconds=2.5)

PIECES = {
    "landlock": (444, None, 38, "landlock_create_ruleset"),
    "landlock rules": (445, None, 38, "landlock_add_rule"),
    "landlock enforcement": (446, None, 1, "landlock_restrict_self"),
    "seccomp": (157, 22, 22, "SECCOMP"),
    "no new privileges": (157, 38, 22, "NO_NEW_PRIVS"),
    "death with the parent": (157, 1, 22, "PDEATHSIG"),
    "detached mounts": (428, None, 38, "open_tree"),
    "attaching them": (429, None, 38, "move_mount"),
    "read-only mounts": (442, None, 38, "mount_setattr"),
    "a root of its own": (155, None, 1, "pivot_root"),
    "namespaces": (272, None, 1, "unshare"),
    "namespaces of a child": (56, jail.CHILD_NAMESPACES | kernel.CLONE_PIDFD | kernel.SIGCHLD, 1, "clone"),
    "a private file system": (165, None, 1, "mount"),
    "capabilities": (126, None, 1, "capset"),
    "closing descriptors": (436, None, 38, "close_range"),
}
"""Piece -> system call (x86-64), its first argument where only that one is refused, errno, words of the message."""

_RUN_WITHOUT = """
import struct, sys
from pipeline_lib.sandbox import kernel
from pipeline_lib.sandbox.client import Sandbox
call, first, errno = (int(word) for word in sys.argv[1:])
code = [(0x20, 0, 0, 0), (0x15, 0, 3 if first >= 0 else 1, call)]
if first >= 0:
    code += [(0x20, 0, 0, 16), (0x15, 0, 1, first)]
code += [(0x06, 0, 0, 0x00050000 | errno), (0x06, 0, 0, 0x7FFF0000)]
filter = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
if (call, first) != (157, 22):
    kernel._prctl(38, 1, "no new privileges")
kernel.install_seccomp(filter)
with Sandbox() as sandbox:
    print(sandbox.run_tests("def f():\\n    return 1", "f", ["assert f() == 1"]))
"""


def _without(call: int, first: int | None, errno: int) -> subprocess.CompletedProcess[str]:
    words = [str(call), str(-1 if first is None else first), str(errno)]
    return subprocess.run(
        [sys.executable, "-c", _RUN_WITHOUT, *words],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("piece", PIECES)
def test_fails_closed_where_the_kernel_lacks(piece: str) -> None:
    call, first, errno, words = PIECES[piece]
    done = _without(call, first, errno)
    assert done.returncode != 0, done.stdout
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "SandboxUnavailable" in last
    assert words in last


def test_the_same_process_without_the_filter_runs_programs() -> None:
    """The refusals above are due to the missing piece: with a filter that refuses a call nobody makes, programs run."""
    done = _without(175, None, 1)  # init_module
    assert done.returncode == 0, done.stderr
    assert "correct" in done.stdout


def _seconds(sandbox: Sandbox, programs: int = 10) -> float:
    began = time.perf_counter()
    for number in range(programs):
        verdict = sandbox.run_tests(
            f"def f():\n    return {number}", "f", [f"assert f() == {number}"], LIMITS
        )
        assert verdict.outcome is Outcome.CORRECT
    return (time.perf_counter() - began) / programs


def test_throughput_is_kept_after_attacks() -> None:
    """Programs run as fast after a storm as before it, through the same fork server, and next to an untouched one.

    Both are timed in turns, so that a busy machine slows both.
    """
    storm = [
        *attacks.REFUSED.values(),
        *attacks.FORGING.values(),
        attacks.EXHAUSTING["endless_loop"],
        attacks.EXHAUSTING["fork_bomb"],
    ]
    with Sandbox() as attacked, Sandbox() as calm:
        server = attacked._server
        _seconds(attacked), _seconds(calm)
        before = statistics.median(_seconds(attacked) / _seconds(calm) for _ in range(5))
        for program in storm:
            attacked.run_tests(program, "f", [f"assert f() == {attacks.ANSWER}"], LIMITS)
        after = statistics.median(_seconds(attacked) / _seconds(calm) for _ in range(5))
        assert attacked._server is server, "the server had to be replaced"
    print(
        f"seconds a program, attacked to calm server: {before:.2f} before and {after:.2f} after {len(storm)} attacks"
    )
    assert after < 2 * before
