"""GRPO against PPO with a learned critic: what the lesson says about memory and cost, measured (ch.2, its table)."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import ratio_of_pairs, spread, table
from benchmarks._sides import Side, take_turns
from benchmarks._work import Work


def compare(work: Work, rounds: int, warm_up: int) -> str:
    """GRPO and PPO on `work`, with the same reference model and KL."""
    works = {"GRPO": replace(work, algorithm="grpo"), "PPO": replace(work, algorithm="ppo")}
    with Side("r1", works["GRPO"]) as grpo, Side("r1", works["PPO"]) as ppo:
        without, with_critic = take_turns([grpo, ppo], rounds, warm_up)
        memory = [grpo.peak_mib, ppo.peak_mib]
    rows = []
    for name, steps, peak in zip(works, (without, with_critic), memory, strict=True):
        update = spread(step.phases["update"] for step in steps)
        rows.append(
            [
                name,
                spread(s.seconds for s in steps).show(2),
                f"{median(s.phases['sample'] for s in steps):.2f}",
                update.show(2),
                f"{peak:,.0f} MiB",
            ]
        )
    whole = ratio_of_pairs([s.seconds for s in with_critic], [s.seconds for s in without])
    update = ratio_of_pairs([s.phases["update"] for s in with_critic], [s.phases["update"] for s in without])
    rows.append(
        [
            "**PPO / GRPO**",
            f"**{whole.show(2)}×**",
            "",
            f"{update.show(2)}×",
            f"**{memory[1] / memory[0]:.2f}×**",
        ]
    )
    return table(["", "seconds a step", "of these sampling", "of these learning", "peak memory"], rows)


def _run(bench: Bench) -> str:
    cases = {"Micro base (0.68M parameters)": bench.micro()}
    if not bench.quick:
        cases["SmolLM2-135M"] = bench.smollm2()
    sections = [
        f"**{title}**, β 0.01 (a reference model in both), {bench.rounds} steps of each, in turns.\n\n"
        + compare(replace(work, kl_coef=0.01, judge="coin"), bench.rounds, 1)
        for title, work in cases.items()
    ]
    return "\n\n".join(sections)


BENCHMARK = Benchmark("ppo", "GRPO against PPO", _run)
