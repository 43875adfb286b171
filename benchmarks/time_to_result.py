"""Time to a result: from a start to 70 % on held-out problems, both trainers, three seeds; and the same reward curve."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from statistics import mean, stdev

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import table
from benchmarks._sides import NAMES, Side

TARGET = 0.70
EVERY = 5
"""Steps between two looks at the held-out problems; looking is not part of the time."""
LIMIT_STEPS = 80
CURVE_AT = (5, 10, 20, 30, 40)


@dataclass(slots=True)
class Race:
    """One run of one trainer."""

    seconds: float = 0.0
    """Training time so far: the sum of its steps."""
    steps: int = 0
    reached: float | None = None
    """Seconds at the first look that saw the target."""
    reached_steps: int = 0
    pass_at_1: float = 0.0
    rewards: list[float] | None = None


def race(bench: Bench, seed: int) -> dict[str, Race]:
    """Both trainers from the same base, step by step in turns, until both have reached the target (or the limit)."""
    # Their warm-ups differ: ours begins at a share of the peak, TRL's at 0, a step later.
    work = replace(bench.micro(), seed=seed, heldout=bench.heldout(100), warmup_steps=0)
    limit = EVERY if bench.quick else LIMIT_STEPS
    races = {name: Race(rewards=[]) for name in NAMES}
    with Side("r1", work) as ours, Side("trl", work) as peer:
        for _ in range(limit):
            for side in (ours, peer):
                run = races[side.name]
                step = side.step()
                run.seconds += step.seconds
                run.steps += 1
                assert run.rewards is not None
                run.rewards.append(step.facts["reward"])
                if run.steps % EVERY == 0 and run.reached is None:
                    run.pass_at_1 = side.measure()["pass_at_1"]
                    print(
                        f"  seed {seed}, {side.name}: step {run.steps}, {run.seconds:.0f} s, pass@1 {run.pass_at_1:.0%}",
                        file=sys.stderr,
                        flush=True,
                    )
                    if run.pass_at_1 >= TARGET:
                        run.reached, run.reached_steps = run.seconds, run.steps
            if all(run.reached is not None and run.steps >= max(CURVE_AT) for run in races.values()):
                break
    return races


def _run(bench: Bench) -> str:
    seeds = (7,) if bench.quick else (7, 8, 9)
    runs = {seed: race(bench, seed) for seed in seeds}
    rows = []
    for seed, races in runs.items():
        mine, theirs = races["r1"], races["trl"]
        share = f"{mine.reached / theirs.reached:.2f}×" if mine.reached and theirs.reached else "–"
        rows.append([seed, *(_shown(run) for run in (mine, theirs)), share])
    text = table(["seed", *(f"{name}: seconds to {TARGET:.0%}" for name in NAMES.values()), "ratio"], rows)
    return f"{text}\n\n{_curves(runs)}"


def _shown(run: Race) -> str:
    if run.reached is None:
        return f"not within {run.steps} steps ({run.seconds:.0f} s, {run.pass_at_1:.0%})"
    return f"{run.reached:.0f} ({run.reached_steps} steps, {run.pass_at_1:.0%})"


def _curves(runs: dict[int, dict[str, Race]]) -> str:
    """Mean reward of five steps around each point, over seeds."""
    rows = []
    for name, shown in NAMES.items():
        cells = []
        for point in CURVE_AT:
            values = []
            for races in runs.values():
                rewards = races[name].rewards or []
                if len(rewards) >= point:
                    values.append(mean(rewards[max(point - 5, 0) : point]))
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.2f}{spread}" if values else "–")
        rows.append([shown, *cells])
    header = ["mean reward of the five steps up to step", *map(str, CURVE_AT)]
    return table(header, rows) + "\n\n± is the standard deviation over seeds."


BENCHMARK = Benchmark("time", "Time to 70 % of the micro world's hard problems", _run)
