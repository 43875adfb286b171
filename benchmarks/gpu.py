"""The comparison with TRL on a GPU: bf16, vLLM in the trainer's own process, real widths with random weights.

`python -m benchmarks --only gpu`; benchmarks/gpu.md says what it needs. It refuses to run without a GPU: a number from a CPU would
be no answer to the question.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from statistics import median

from benchmarks._bench import Bench, Benchmark, random_model
from benchmarks._measure import ratio_of_pairs, spread, table
from benchmarks._sides import NAMES, Side, Step, take_turns
from benchmarks._work import Work

PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "L40S": 362e12}
"""bf16 operations a second, dense, as NVIDIA states them."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen2.5's published widths."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    parameters: float


SHAPES = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 0.494e9),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 1.544e9),
}
VOCABULARY = 151936


def card() -> str:
    """The first GPU's name. RuntimeError where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
        )
        names = done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""
    except FileNotFoundError:
        names = ""
    if not names:
        raise RuntimeError(
            "the GPU benchmark needs an NVIDIA GPU and finds none; leave it out with --only (docs/benchmarks.md names the others)"
        )
    return names


def used_mib() -> float:
    """Memory in use on the first GPU, by everything."""
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split("\n")[0])


def _model(bench: Bench, shape: Shape) -> str:
    return random_model(
        bench.folder / f"qwen2-{shape.hidden}",
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
    )


def _alone(name: str, work: Work, rounds: int) -> tuple[list[Step], float]:
    """One side by itself: two trainers and two vLLM engines do not fit every card."""
    before = used_mib()
    peak = 0.0
    with Side(name, work) as side:
        steps = []
        for _ in range(rounds + 2):
            steps += take_turns([side], 1, 0)[0]
            peak = max(peak, used_mib() - before)
    return steps[2:], peak


def _run(bench: Bench) -> str:
    name = card()
    peak_operations = next((value for key, value in PEAKS.items() if key in name), None)
    sections = []
    for title, shape in SHAPES.items():
        work = Work(
            model=_model(bench, shape),
            problems=bench.micro().problems,
            judge="coin",
            problems_per_step=16,
            group_size=16,
            max_new_tokens=1024,
            microbatch_tokens=32768,
            peer_rows=16,
            learning_rate=1e-6,
            device="cuda",
            dtype="bfloat16",
            rollout="vllm",
            threads=8,
        )
        sides = {side: _alone(side, work, bench.rounds) for side in ("r1", "trl")}
        rows = [_row(side, steps, memory, shape, peak_operations) for side, (steps, memory) in sides.items()]
        ratio = ratio_of_pairs(*([step.facts["tokens"] / step.seconds for step in sides[side][0]] for side in ("r1", "trl")))  # fmt: skip
        header = ["", "tokens/s/GPU", "seconds a step", "learning, tokens/s", "MFU of learning", "memory after a step"]  # fmt: skip
        sections.append(
            f"**{title}**, 16 × G 16, at most 1,024 new tokens, on one {name}.\n\n{table(header, rows)}\n\nRatio of tokens/s: "
            f"{ratio.show(2)}×, one side after the other."
        )
    return "\n\n".join(sections)


def _row(
    side: str, steps: list[Step], memory: float, shape: Shape, peak_operations: float | None
) -> list[object]:
    rates = spread(step.facts["tokens"] / step.seconds for step in steps)
    learning = [
        step.facts["tokens"] / sum(step.phases.get(phase, 0.0) for phase in ("forward", "backward", "step"))
        for step in steps
    ]
    mfu = (
        f"{100 * 6 * shape.parameters * median(learning) / peak_operations:.1f} %" if peak_operations else "–"
    )
    return [
        NAMES[side],
        rates.show(0),
        spread(s.seconds for s in steps).show(2),
        spread(learning).show(0),
        mfu,
        f"{memory:,.0f} MiB",
    ]


BENCHMARK = Benchmark("gpu", "On a GPU", _run)
