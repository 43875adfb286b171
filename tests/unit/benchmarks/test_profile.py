"""py-spy really sees a process, and a stack belongs to the phase that its frames name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import profile

BUSY = """
import sys

def busy():
    while True:
        sum(range(100))

open(sys.argv[1], "w").close()
busy()
"""
LEARNS = ("main (benchmarks/worker_r1.py:94)", "PolicyTrainer.update (pipeline_lib/training/update.py:132)")


@pytest.mark.parametrize(
    ("stack", "phase"),
    [
        (("main (x.py:1)", "Sampler.groups (pipeline_lib/training/rollout_step.py:78)", "f (y.py:2)"), "sampling and judging"),
        ((*LEARNS, "PolicyTrainer._forward (pipeline_lib/training/update.py:198)"), "forward"),
        ((*LEARNS, "Engine.backward (pipeline_lib/training/distributed.py:1)", "g (z.py:3)"), "backward"),
        (LEARNS, "packing, losses and statistics"),
        (LEARNS[:1], profile.REST),
    ],
)  # fmt: skip
def test_a_stack_belongs_to_the_innermost_phase_it_names(stack: tuple[str, ...], phase: str) -> None:
    assert profile.phase_of(stack) == phase


@pytest.mark.slow
def test_the_functions_that_name_phases_exist() -> None:
    from pipeline_lib.training.distributed import Engine
    from pipeline_lib.training.rollout_step import Sampler
    from pipeline_lib.training.update import PolicyTrainer

    known = {f"{member.__qualname__} (" for kind in (Engine, Sampler, PolicyTrainer) for member in vars(kind).values() if callable(member)}  # fmt: skip
    assert set(profile.PHASES) <= known


@pytest.mark.slow
def test_py_spy_sees_what_a_process_does(tmp_path: Path) -> None:
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() != 0 and yama.exists() and yama.read_text().strip() != "0":
        pytest.skip("this kernel lets an ordinary user look only into children (yama/ptrace_scope)")
    program = tmp_path / "busy.py"
    program.write_text(BUSY, encoding="utf-8")
    begun = tmp_path / "begun"
    with subprocess.Popen([sys.executable, str(program), str(begun)]) as process:
        side = SimpleNamespace(pid=process.pid, step=lambda: time.sleep(1.0))
        try:
            deadline = time.monotonic() + 60
            while not begun.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            stacks = profile.record(side, 2, tmp_path / "spy")  # type: ignore[arg-type]
        finally:
            process.kill()
    busy = sum(count for stack, count in stacks.items() if stack[-1].startswith("busy ("))
    assert busy > 20
    assert busy > 0.5 * sum(stacks.values())  # the rest is Python's own start
