"""Where the time of a whole training step goes, Python included: py-spy looks at the trainer from outside, a hundred times a second.

`limit` profiles operators inside learning and sampling alone. Here is the job's process as it runs: what it samples, judges, packs,
learns, logs and waits for.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import table
from benchmarks._sides import Side
from benchmarks._work import Work

RATE = 100
PHASES = {
    "Sampler.groups (": "sampling and judging",
    "PolicyTrainer._forward (": "forward",
    "Engine.backward (": "backward",
    "Engine.step (": "optimizer",
    "PolicyTrainer.update (": "packing, losses and statistics",
}
"""The beginning of a frame and what is done inside; the first that a stack has decides."""
REST = "the rest: advantages, log, checkpoints, heartbeat"


def record(side: Side, steps: int, file: Path) -> dict[tuple[str, ...], int]:
    """Stacks of the side's first rank during that many steps, outermost frame first, with how often each was seen."""
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "--rate", str(RATE)]
    process = subprocess.Popen(
        [*spy, "--format", "raw", "--output", str(file), "--duration", "36000", "--pid", str(side.pid)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(2.0)  # it reads the symbols of every library first
    for _ in range(steps):
        side.step()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    if not file.is_file():
        raise RuntimeError(f"py-spy wrote nothing: {said[-1000:]}")
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        found[tuple(stack.split(";"))] = int(count)
    return found


def phase_of(stack: tuple[str, ...]) -> str:
    """What is being done in this stack."""
    return next((name for start, name in PHASES.items() if any(f.startswith(start) for f in stack)), REST)


def _section(title: str, work: Work, steps: int, file: Path) -> str:
    with Side("r1", work) as side:
        for _ in range(2):
            side.step()
        stacks = record(side, steps, file)
    total = sum(stacks.values())
    phases: Counter[str] = Counter()
    leaves: dict[str, Counter[str]] = {}
    for stack, count in stacks.items():
        phase = phase_of(stack)
        phases[phase] += count
        leaves.setdefault(phase, Counter())[_shown(stack[-1])] += count
    rows = [
        [
            phase,
            f"{count / total:.0%}",
            ", ".join(
                f"{leaf} {share / total:.0%}"
                for leaf, share in leaves[phase].most_common(5)
                if share >= total / 200
            ),
        ]
        for phase, count in phases.most_common()
    ]
    asked = f"{work.problems_per_step} × G {work.group_size}, {work.threads} threads; {steps} steps, {total:,} samples"
    return f"**{title}**, {asked}.\n\n" + table(
        ["phase", "share", "in it, by the innermost Python line"], rows
    )


def _shown(frame: str) -> str:
    """`name (path:line)` as `name (file:line)`."""
    name, _, place = frame.partition(" (")
    return f"`{name} ({place.rpartition('/')[2]}`"


def _run(bench: Bench) -> str:
    micro = bench.micro()
    if bench.quick:
        return _section(
            "Micro base (0.68M parameters)", replace(micro, group_size=4), 2, bench.folder / "spy"
        )
    steps = 10 * bench.rounds
    sections = [_section("Micro base (0.68M parameters)", micro, steps, bench.folder / "micro.spy")]
    sections.append(_section("SmolLM2-135M", bench.smollm2(), 2, bench.folder / "smollm2.spy"))
    return "\n\n".join(sections)


BENCHMARK = Benchmark("profile", "Where a step's time goes", _run)
