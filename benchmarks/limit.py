"""Against the machine: how much of a step is matrix products at the speed that this machine multiplies these very shapes.

The limit of a phase is the time that its matrix products alone take, each measured by itself with `torch.mm` or
`torch.bmm` at its own shape. Work that this engine adds (logits beyond 512 MiB, computed again in the backward pass) does
not count.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import spread, table
from benchmarks._work import Work, judging

Product = tuple[int, int, int, int]
"""(batch, m, k, n): how many products of (m, k) by (k, n) at once."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A trainer, a sampler, and groups to learn from."""

    trainer: Any
    generator: Any
    groups: list[Any]
    sample: Callable[[], list[Any]]


def setting_of(work: Work) -> Setting:
    """The work's trainer and sampler in this process, and one step's judged groups."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from pipeline_lib.startup import import_model_libraries

    import_model_libraries()
    from benchmarks.worker_r1 import engine_of, spec_of
    from pipeline_lib.data.schema import read_problems
    from pipeline_lib.modeling import load_model, load_tokenizer, render_prompt
    from pipeline_lib.rollout.torch_generator import TorchGenerator
    from pipeline_lib.training.distributed import join_world
    from pipeline_lib.training.grpo import parse_section
    from pipeline_lib.training.policy import Switches
    from pipeline_lib.training.rollout_step import Group
    from pipeline_lib.training.update import PolicyTrainer
    from pipeline_lib.types import SamplingParams

    engine = engine_of(work)
    world = join_world(engine)
    lm, tokenizer = load_model(work.model), load_tokenizer(work.model)
    params = parse_section(spec_of(work, engine).section)
    trainer = PolicyTrainer(lm, params, engine, world, Switches())
    generator = TorchGenerator(lm, tokenizer)
    problems = read_problems(Path(work.problems))[: work.problems_per_step]
    prompts = [render_prompt(tokenizer, problem.prompt) for problem in problems]

    def sample() -> list[Any]:
        sampling = SamplingParams(work.group_size, work.max_new_tokens, work.temperature)
        return generator.generate(prompts, [p.id for p in problems], sampling, seed=1)

    groups = []
    with judging(work) as judge:
        for problem, completions in zip(problems, sample(), strict=True):
            rewards = judge([problem] * len(completions), completions)
            groups.append(Group(problem, tuple(completions), tuple(rewards)))
    return Setting(trainer, generator, groups, sample)


def linear_products(lm: Any, rows: int) -> Counter[Product]:
    """One forward pass of `rows` tokens through every linear layer but the head."""
    from torch import nn

    head = lm.get_output_embeddings()
    found: Counter[Product] = Counter()
    for module in lm.modules():
        if isinstance(module, nn.Linear) and module is not head:
            found[(1, rows, module.in_features, module.out_features)] += 1
    return found


def backward_of(products: Counter[Product]) -> Counter[Product]:
    """The two products of the backward pass for each of the forward pass."""
    found: Counter[Product] = Counter()
    for (batch, m, k, n), count in products.items():
        found[(batch, m, n, k)] += count
        found[(batch, k, m, n)] += count
    return found


def training_products(setting: Setting) -> Counter[Product]:
    """Forward and backward of one update, with the cut that the trainer makes."""
    lm = setting.trainer.lm
    heads = lm.config.num_attention_heads
    width = getattr(lm.config, "head_dim", None) or lm.config.hidden_size // heads
    micros, _ = setting.trainer._prepare(setting.groups)
    forward: Counter[Product] = Counter()
    for micro in micros:
        packed = micro.packed
        forward += linear_products(lm, packed.input_ids_1T.numel())
        forward[(1, packed.targets_M.numel(), lm.config.hidden_size, lm.config.vocab_size)] += 1
        for bucket in packed.layout.buckets:
            for _ in range(lm.config.num_hidden_layers):
                forward[(bucket.rows * heads, bucket.queries, width, bucket.keys)] += 1
                forward[(bucket.rows * heads, bucket.queries, bucket.keys, width)] += 1
    return forward + backward_of(forward)


def sampling_products(lm: Any, groups: list[Any]) -> Counter[Product]:
    """Every step's linear layers for the rows that still sample, and their attention over a cache without padding."""
    heads, kv_heads = lm.config.num_attention_heads, lm.config.num_key_value_heads
    width = getattr(lm.config, "head_dim", None) or lm.config.hidden_size // heads
    cached: dict[int, list[int]] = {}
    for completion in (c for group in groups for c in group.completions):
        for position in range(len(completion.token_ids)):
            cached.setdefault(position, []).append(len(completion.prompt_ids) + position)
    products: Counter[Product] = Counter()
    for lengths in cached.values():
        rows, mean = len(lengths), round(sum(lengths) / len(lengths))
        products += linear_products(lm, rows)
        products[(1, rows, lm.config.hidden_size, lm.config.vocab_size)] += 1
        for shape in ((width, mean), (mean, width)):
            products[(rows * kv_heads, heads // kv_heads, *shape)] += lm.config.num_hidden_layers
    return products


def seconds_of(products: Counter[Product], rounds: int) -> tuple[float, float]:
    """(seconds, GFLOP) of the products, each timed alone, once warm."""
    import torch

    total, flop = 0.0, 0.0
    for (batch, m, k, n), count in products.items():
        left, right = torch.randn(batch, m, k), torch.randn(batch, k, n)
        times = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            torch.mm(left[0], right[0]) if batch == 1 else torch.bmm(left, right)
            times.append(time.perf_counter() - began)
        total += count * spread(times[1:]).median
        flop += count * 2e-9 * batch * m * k * n
    return total, flop


def _training(setting: Setting, rounds: int) -> tuple[list[object], str]:
    products = training_products(setting)
    limits, times = [], []
    flop = 0.0
    setting.trainer.update(setting.groups, 0.0)
    for _ in range(rounds):
        began = time.perf_counter()
        setting.trainer.update(setting.groups, 0.0)
        times.append(time.perf_counter() - began)
        limit, flop = seconds_of(products, 3)
        limits.append(limit)
    share = spread(limit / seconds for limit, seconds in zip(limits, times, strict=True))
    row: list[object] = [
        "learning",
        spread(times).show(3),
        spread(limits).show(3),
        f"{flop / spread(times).median:,.0f} of {flop / spread(limits).median:,.0f}",
        f"**{100 * share.median:.0f} %** ({100 * share.low:.0f}–{100 * share.high:.0f})",
    ]
    return row, _where(lambda: setting.trainer.update(setting.groups, 0.0))


def _sampling(setting: Setting, rounds: int) -> tuple[list[object], str]:
    lm = setting.trainer.lm
    products = sampling_products(lm, setting.groups)
    limits, times = [], []
    tokens, flop = 0, 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        groups = setting.sample()
        times.append(time.perf_counter() - began)
        tokens = sum(len(c.token_ids) for group in groups for c in group)
        limit, flop = seconds_of(products, 2)
        limits.append(limit)
    share = spread(limit / seconds for limit, seconds in zip(limits, times, strict=True))
    row: list[object] = [
        f"sampling ({tokens / spread(times).median:,.0f} tokens/s)",
        spread(times).show(3),
        spread(limits).show(3),
        f"{flop / spread(times).median:,.0f} of {flop / spread(limits).median:,.0f}",
        f"**{100 * share.median:.0f} %** ({100 * share.low:.0f}–{100 * share.high:.0f})",
    ]
    return row, _where(setting.sample)


def _where(action: Callable[[], Any], most: int = 9) -> str:
    """The operators that take the time of one call, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    action()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        action()
    averages = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in averages)
    shown = [f"{e.key} {100 * e.self_cpu_time_total / total:.0f} %" for e in averages[:most]]
    return ", ".join(shown)


def _run(bench: Bench) -> str:
    cases = {"Micro base (0.68M parameters)": bench.micro()}
    if not bench.quick:
        cases["SmolLM2-135M"] = bench.smollm2()
    sections = []
    for title, work in cases.items():
        setting = setting_of(work)
        learning, learning_ops = _training(setting, bench.rounds)
        sampling, sampling_ops = _sampling(setting, bench.rounds)
        header = [
            "phase",
            "seconds",
            "its matrix products alone",
            "GFLOP/s of the limit's",
            "share of the limit",
        ]
        sections.append(
            f"**{title}**, {work.problems_per_step} × G {work.group_size}, {work.threads} threads.\n\n"
            f"{table(header, [learning, sampling])}\n\nOperators while learning, share of self time (torch profiler): {learning_ops}.\n\n"
            f"While sampling: {sampling_ops}."
        )
    return "\n\n".join(sections)


BENCHMARK = Benchmark("limit", "Against the machine's own limit", _run)
