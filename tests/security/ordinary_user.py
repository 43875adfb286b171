"""Runs the attacks without pytest: what an ordinary user's interpreter, which has no packages, can run."""

from __future__ import annotations

import os

from pipeline_lib.sandbox.client import Sandbox
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Outcome
from tests.security import attacks

LIMITS = Limits(cpu_seconds=1, wall_seconds=4.0)


def main() -> None:
    """Print how many attacks were contained; raise at the first that was not."""
    contained = 0
    with Sandbox() as sandbox:
        for name, program in attacks.REFUSED.items():
            verdict = sandbox.run_tests(
                program.replace("{canary}", __file__), "f", ["assert f() == 'contained'"], LIMITS
            )
            assert verdict.outcome is Outcome.CORRECT, (name, verdict)
            contained += 1
        split = f"assert f() == {attacks.ANSWER}"
        judged = (
            f"def check(candidate):\n    for _ in range(2):\n        assert candidate() == {attacks.ANSWER}\n"
        )
        for name, program in attacks.FORGING.items():
            for test in (split, judged):
                verdict = sandbox.run_tests(program, "f", [test], LIMITS)
                assert verdict.outcome is Outcome.WRONG, (name, verdict)
                contained += 1
    print(f"{contained} attacks contained as uid {os.getuid()}")


if __name__ == "__main__":
    main()
