"""How a step grows with each of its sizes, and whether any growth is worse than linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks._bench import Bench, Benchmark, random_model
from benchmarks._measure import Spread, slope, spread, table
from benchmarks._sides import Side, take_turns
from benchmarks._work import Work

VOCABULARY = 4096
WIDTHS = {"0.7M": (128, 3), "3.6M": (256, 4), "26M": (512, 8), "134M": (1024, 10)}
"""Parameters -> (width, layers) of a Qwen2 with that vocabulary."""


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


def _model(folder: Path, width: int, layers: int) -> str:
    return random_model(
        folder / f"random-{width}-{layers}",
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=_inner(width),
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
    )


def _inner(width: int) -> int:
    return width * 8 // 3 // 32 * 32


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
        model=_model(folder, *WIDTHS["0.7M"]),
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
                replace(base, model=_model(folder, *shape), problems_per_step=2),
            )
            for name, shape in WIDTHS.items()
        ],
        "ranks": [(n, str(n), replace(one_thread, world_size=n)) for n in (1, 2)],
    }
    if bench.quick:
        axes = {"G": axes["G"][:2], "ranks": axes["ranks"]}
    return axes


def _parameters(width: int, layers: int) -> float:
    return layers * (4 * width * width + 3 * width * _inner(width)) + VOCABULARY * width


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
