"""Against TRL's GRPOTrainer: the same step on the same machine, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import ratio_of_pairs, spread, table
from benchmarks._sides import NAMES, Side, Step, take_turns
from benchmarks._work import Work

PHASES = ("sample", "verify", "forward", "backward", "step")


def compare(work: Work, rounds: int, warm_up: int) -> str:
    """Both trainers on `work`: a table of rates, one of phases, and the ratios."""
    with Side("r1", work) as ours, Side("trl", work) as peer:
        mine, theirs = take_turns([ours, peer], rounds, warm_up)
        memory = {"r1": ours.peak_mib, "trl": peer.peak_mib}
    rows = []
    for name, steps in (("r1", mine), ("trl", theirs)):
        rows.append(
            [
                NAMES[name],
                spread(_rates(steps, "samples")).show(1),
                spread(_rates(steps, "tokens")).show(0),
                spread(step.seconds for step in steps).show(2),
                f"{memory[name]:,.0f} MiB",
                f"{median(s.facts['tokens'] / s.facts['samples'] for s in steps):.1f}",
            ]
        )
    samples = ratio_of_pairs(_rates(mine, "samples"), _rates(theirs, "samples"))
    tokens = ratio_of_pairs(_rates(mine, "tokens"), _rates(theirs, "tokens"))
    rows.append(
        [
            "**ratio**",
            f"**{samples.show(2)}×**",
            f"{tokens.show(2)}×",
            "",
            f"{memory['r1'] / memory['trl']:.2f}×",
            "",
        ]
    )
    header = ["", "samples/s", "tokens/s", "seconds a step", "peak memory", "tokens a sample"]
    return table(header, rows) + "\n\n" + _phases({"r1": mine, "trl": theirs})


def _rates(steps: Sequence[Step], fact: str) -> list[float]:
    return [step.facts[fact] / step.seconds for step in steps]


def _phases(sides: dict[str, list[Step]]) -> str:
    rows = []
    for name, steps in sides.items():
        sequential = [phase for phase in PHASES if phase != "verify" or name == "trl"]
        rest = [step.seconds - sum(step.phases.get(phase, 0.0) for phase in sequential) for step in steps]
        parts = [[step.phases.get(phase, 0.0) for step in steps] for phase in PHASES]
        rows.append([NAMES[name], *(spread(part).show(3) for part in (*parts, rest))])
    return table(["seconds a step", *PHASES, "the rest"], rows)


def _run(bench: Bench) -> str:
    sections = []
    cases = {"Micro base (0.68M parameters)": bench.micro()}
    if not bench.quick:
        cases["SmolLM2-135M"] = bench.smollm2()
    for title, work in cases.items():
        asked = (
            f"{work.problems_per_step} problems × G {work.group_size}, at most {work.max_new_tokens} new tokens, β "
            f"{work.kl_coef:g}, {work.threads} threads, float32"
        )
        result = compare(work, bench.rounds, warm_up=1 if bench.quick else 2)
        sections.append(f"**{title}**, {asked}; {bench.rounds} steps of each, in turns.\n\n{result}")
    notes = (
        "Verification runs beside sampling here, so its time is inside `sample`; TRL verifies afterwards. A step's new weights, "
        "metrics and packing are in the rest."
    )
    return "\n\n".join([*sections, notes])


BENCHMARK = Benchmark("trl", "Against TRL's GRPOTrainer", _run)
