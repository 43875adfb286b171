"""What each fast path buys: one update, or one sampling, with everything on against one with a single switch off (design §7).

One process, one trainer, the same groups. A learning rate of 0 keeps the weights where they are, so every update does the
same work. The sides of a pair take turns; memory is looked at in an update of its own, which also warms its side up.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import peak_mib_of, ratio_of_pairs, spread, table
from benchmarks._work import Work, judging
from benchmarks.limit import Setting, setting_of

if TYPE_CHECKING:
    from pipeline_lib.training.rollout_step import Group
    from pipeline_lib.training.update import PolicyTrainer

KL_COEF = 0.01


@dataclass(frozen=True, slots=True)
class Variant:
    """One fast path and how to learn without it."""

    name: str
    applied: Callable[[], AbstractContextManager[object]]
    """Inside, the trainer does without; afterwards it is as before."""


def variants(trainer: PolicyTrainer) -> list[Variant]:
    """Every field of `Switches` switched off alone, and a KL term instead of none (for `skip_kl`, read once, as a trainer is made)."""
    return [
        *(
            Variant(f"`{field.name}`", partial(_off, trainer, field.name))
            for field in fields(trainer.switches)
            if field.name != "skip_kl"
        ),
        Variant(f"KL skipped: β {KL_COEF} instead of 0", partial(_with_kl, trainer)),
    ]


@contextmanager
def _off(trainer: PolicyTrainer, switch: str) -> Iterator[None]:
    policy: Any = trainer.engine.module
    on = trainer.switches
    trainer.switches = policy.switches = replace(on, **{switch: False})
    try:
        yield
    finally:
        trainer.switches = policy.switches = on


@contextmanager
def _with_kl(trainer: PolicyTrainer) -> Iterator[None]:
    from pipeline_lib.training.policy import Policy

    without = trainer.settings
    trainer.settings = replace(without, kl_coef=KL_COEF)
    trainer.reference = Policy(copy.deepcopy(trainer.lm), trainer.switches).requires_grad_(False)
    try:
        yield
    finally:
        trainer.settings, trainer.reference = without, None


def compare(trainer: PolicyTrainer, groups: Sequence[Group], pairs: int) -> str:
    """A row for each variant, from `pairs` updates with it and as many without, in turns."""

    def update() -> float:
        began = time.perf_counter()
        trainer.update(groups, 0.0)
        return time.perf_counter() - began

    update()  # makes the optimizer's state
    plain_mib = peak_mib_of(update)
    all_on: list[float] = []
    rows: list[list[object]] = []
    for variant in variants(trainer):
        with variant.applied():
            more_mib = peak_mib_of(update) - plain_mib
        on, off = [], []
        for _ in range(pairs):
            for side, times in ((nullcontext, on), (variant.applied, off)):
                with side():
                    times.append(update())
        ratio = ratio_of_pairs(off, on)
        rows.append([variant.name, spread(off).show(3), f"**{ratio.show(2)}×**", f"{more_mib:+,.0f} MiB"])
        all_on += on
    first: list[object] = ["none", spread(all_on).show(3), "1", f"peak {plain_mib:,.0f} MiB"]
    return table(["switch off", "learning seconds", "ratio", "extra memory"], [first, *rows])


def compare_sampling(setting: Setting, work: Work, pairs: int) -> str:
    """The same for the fast paths of sampling: the step's prompts, sampled and judged."""
    from pipeline_lib.modeling import load_tokenizer, render_prompt
    from pipeline_lib.rollout.slot_batch import SamplerSwitches
    from pipeline_lib.training.rollout_step import Sampler
    from pipeline_lib.types import SamplingParams

    tokenizer, generator = load_tokenizer(work.model), setting.generator
    problems = [group.problem for group in setting.groups]
    everything = SamplerSwitches()
    times: dict[str, tuple[list[float], list[float]]] = {}

    with judging(work) as judge:

        def score(asked: Any, completions: Any, _weights: Any, _parts: Any) -> list[Any]:
            return judge(asked, completions)

        early = Sampler(
            generator,
            score,
            SamplingParams(work.group_size, work.max_new_tokens, work.temperature),
            lambda text: render_prompt(tokenizer, text),
        )

        def seconds(sampler: Sampler, switches: SamplerSwitches) -> float:
            generator.switches = switches
            began = time.perf_counter()
            sampler.groups(problems, seed=1, version=generator.weight_version, weights={}, learned={})
            return time.perf_counter() - began

        sides = {
            f"`{field.name}`": (early, replace(everything, **{field.name: False}))
            for field in fields(everything)
        }
        sides["`judge_early`"] = (replace(early, judge_early=False), everything)
        seconds(early, everything)
        for name, without in sides.items():
            pair = times.setdefault(name, ([], []))
            for _ in range(pairs):
                pair[0].append(seconds(early, everything))
                pair[1].append(seconds(*without))
        generator.switches = everything
    rows: list[list[object]] = [
        [name, spread(off).show(3), f"**{ratio_of_pairs(off, on).show(2)}×**"]
        for name, (on, off) in times.items()
    ]
    first: list[object] = ["none", spread([t for on, _ in times.values() for t in on]).show(3), "1"]
    return table(["switch off", "sampling seconds", "ratio"], [first, *rows])


def quarter_flat(groups: Sequence[Group]) -> list[Group]:
    """The groups, the first quarter with equal rewards, whatever was sampled: how many are flat changes while a model learns."""
    quarter = len(groups) // 4
    equal = [replace(g, rewards=tuple(replace(r, total=0.0) for r in g.rewards)) for g in groups[:quarter]]
    return [*equal, *groups[quarter:]]


def _flat(groups: Sequence[Group]) -> int:
    return sum(len({reward.total for reward in group.rewards}) == 1 for group in groups)


def section(title: str, work: Work, pairs: int) -> str:
    """The table of one model."""
    setting = setting_of(work)
    groups = quarter_flat(setting.groups)
    return (
        f"**{title}**, {work.problems_per_step} × G {work.group_size}, at most {work.max_new_tokens} new tokens, "
        f"{_flat(groups)} of {len(groups)} groups flat, {work.microbatch_tokens:,} tokens a micro-batch, "
        f"{work.threads} threads; {pairs} pairs.\n\n{compare(setting.trainer, groups, pairs)}\n\n"
        f"{compare_sampling(setting, work, pairs)}"
    )


def _run(bench: Bench) -> str:
    micro = replace(bench.micro(), problems_per_step=4, group_size=4) if bench.quick else bench.micro()
    cases = {"Micro base (0.68M parameters)": (micro, bench.rounds)}
    # The model is made before the first section, which imports transformers without what reads a GGUF file.
    if not bench.quick:
        small = replace(bench.smollm2(), group_size=4, max_new_tokens=48, microbatch_tokens=512)
        cases["SmolLM2-135M"] = (small, min(bench.rounds, 5))
    return "\n\n".join(section(title, work, pairs) for title, (work, pairs) in cases.items())


BENCHMARK = Benchmark("switches", "What each fast path buys", _run)
