"""Runs one kind of attacks without pytest: what an ordinary user's interpreter, which has no packages, can run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pipeline_lib.sandbox.client import Sandbox
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Outcome
from tests.security import attacks
from tests.security.host_state import look, orphans_come_here

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0)


def main() -> None:
    """Print how many attacks were contained and whether the host is as it was; raise at the first that was not."""
    canary = Path(os.environ["R1_CANARY"])
    assert os.access(canary, os.W_OK)  # without the sandbox it would be at this user's mercy
    with orphans_come_here():
        before = look()
        with Sandbox() as sandbox:
            contained = KINDS[sys.argv[1]](sandbox, canary)
        if changes := before.changes(look()):
            raise SystemExit(f"the host has changed: {changes}")
    if canary.read_text() != "alive":
        raise SystemExit("the canary is dead")
    print(f"{contained} attacks contained as uid {os.getuid()}, the host unchanged")


def _refused(sandbox: Sandbox, canary: Path) -> int:
    for name, program in attacks.REFUSED.items():
        verdict = sandbox.run_tests(
            program.replace("{canary}", str(canary)), "f", ["assert f() == 'contained'"], LIMITS
        )
        assert verdict.outcome is Outcome.CORRECT, (name, verdict)
    return len(attacks.REFUSED)


def _exhausting(sandbox: Sandbox, _: Path) -> int:
    for name, program in attacks.EXHAUSTING.items():
        started = time.monotonic()
        verdict = sandbox.run_tests(program, "f", [f"assert f() == {attacks.ANSWER}"], LIMITS)
        seconds = time.monotonic() - started
        assert attacks.exhausted_nothing(verdict, seconds, LIMITS), (name, verdict, seconds)
        assert not _children_of(sandbox), f"{name} outlived its run"
    return len(attacks.EXHAUSTING)


def _forging(sandbox: Sandbox, _: Path) -> int:
    split = f"assert f() == {attacks.ANSWER}"
    judged = (
        f"def check(candidate):\n    for _ in range(2):\n        assert candidate() == {attacks.ANSWER}\n"
    )
    for name, program in attacks.FORGING.items():
        for test in (split, judged):
            verdict = sandbox.run_tests(program, "f", [test], LIMITS)
            assert verdict.outcome is Outcome.WRONG, (name, verdict)
    return 2 * len(attacks.FORGING)


def _children_of(sandbox: Sandbox) -> list[str]:
    assert sandbox._server is not None
    pid = sandbox._server.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


KINDS = {"refused": _refused, "exhausting": _exhausting, "forging": _forging}


if __name__ == "__main__":
    main()
