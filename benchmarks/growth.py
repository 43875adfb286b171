"""How a step grows with each of its sizes, and whether any growth is worse than linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import Spread, slope, spread, table
from benchmarks._sides import Side, take_turns
from benchmarks._work import Work

WIDTHS = {"0.7M": (128, 3), "3.6M": (256, 4), "26M": (512, 8), "134M": (1024, 10)}
"""Parameters -> (width, layers) of a Qwen2 with 4,096 tokens."""
STEPS_WORSE_THAN_LINEAR = 1.15
"""A slope above this is explained in docs/benchmarks.md."""


@dataclass(frozen=True, slots=True)
class Point:
    """One size and what it cost."""

    size: float
    label: str
    seconds: Spread
    sample: float
    update: float
    peak_mib: float
    tokens: float


def random_model(folder: Path, width: int, layers: int) -> str:
    """A Qwen2 of that width with random weights and a vocabulary so large that a response rarely ends before its limit."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipeline_lib.modeling import load_tokenizer, save_model

    path = folder / f"random-{width}-{layers}"
    if not path.exists():
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=4096,
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 32 * 32,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
        save_model(Qwen2ForCausalLM(config), load_tokenizer("assets/micro/base"), path)
    return str(path)


def measure(bench: Bench, works: Sequence[tuple[float, str, Work]]) -> list[Point]:
    """Every size on its own: one after the other, so that no memory is shared."""
    points = []
    for size, label, work in works:
        with Side("r1", work) as side:
            (steps,) = take_turns([side], min(bench.rounds, 5), 1)
            points.append(
                Point(
                    size,
                    label,
                    spread(step.seconds for step in steps),
                    spread(step.phases["sample"] for step in steps).median,
                    spread(step.phases["update"] for step in steps).median,
                    side.peak_mib,
                    spread(step.facts["tokens"] for step in steps).median,
                )
            )
    return points


def _axes(bench: Bench) -> dict[str, list[tuple[float, str, Work]]]:
    folder = bench.folder
    base = replace(
        bench.micro(),
        model=random_model(folder, *WIDTHS["0.7M"]),
        judge="coin",
        group_size=8,
        problems_per_step=8,
        max_new_tokens=64,
    )
    one_thread = replace(base, threads=1, zero_stage=0, problems_per_step=16)
    axes = {
        "G": [(g, str(g), replace(base, group_size=g)) for g in (8, 16, 32, 64)],
        "response length": [(n, str(n), replace(base, max_new_tokens=n)) for n in (64, 128, 256, 512, 1024)],
        "problems a step": [(n, str(n), replace(base, problems_per_step=n)) for n in (4, 8, 16, 32)],
        "parameters": [
            (
                _parameters(*shape),
                name,
                replace(base, model=random_model(folder, *shape), problems_per_step=2),
            )
            for name, shape in WIDTHS.items()
        ],
        "ranks": [(n, str(n), replace(one_thread, world_size=n)) for n in (1, 2)],
    }
    if bench.quick:
        axes = {"G": axes["G"][:2], "ranks": axes["ranks"]}
    return axes


def _parameters(width: int, layers: int) -> float:
    return layers * (4 * width * width + 3 * width * (width * 8 // 3 // 32 * 32)) + 4096 * width


def _run(bench: Bench) -> str:
    sections = []
    for axis, works in _axes(bench).items():
        points = measure(bench, works)
        rows = [
            [p.label, p.seconds.show(2), f"{p.sample:.2f}", f"{p.update:.2f}", f"{p.tokens:,.0f}", f"{p.peak_mib:,.0f} MiB"]
            for p in points
        ]  # fmt: skip
        text = table([axis, "seconds a step", "sampling", "learning", "tokens", "peak memory"], rows)
        if axis == "ranks":
            speed_up = points[0].seconds.median / points[-1].seconds.median
            text += f"\n\nTwo ranks of one thread each against one of one thread: {speed_up:.2f}× the speed on the same work."
        else:
            sizes = [p.size for p in points]
            exponents = {
                "step": slope(sizes, [p.seconds.median for p in points]),
                "sampling": slope(sizes, [p.sample for p in points]),
                "learning": slope(sizes, [p.update for p in points]),
                "memory": slope(sizes, [p.peak_mib for p in points]),
            }
            told = ", ".join(f"{name} {value:.2f}" for name, value in exponents.items())
            text += f"\n\nExponents (1 is linear): {told}."
        sections.append(text)
    return "\n\n".join(sections)


BENCHMARK = Benchmark("growth", "How a step grows", _run)
