"""Supervised fine-tuning: stages 1 and 3 and every student (v2 B.4.2, Table 6).

Loss on the response only, cosine learning rate to a tenth of its peak, whole epochs in a seeded order. Batches are
laid out without padding (`packing`): a prompt with several responses in one batch is fed once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline_lib.algorithms.aggregation import Totals
from pipeline_lib.algorithms.sft import sft_loss
from pipeline_lib.data.schema import SftSample, read_samples
from pipeline_lib.errors import DataError, NonFiniteError
from pipeline_lib.modeling import load_model, load_tokenizer, render_prompt
from pipeline_lib.params import EngineParams, SftParams
from pipeline_lib.training.context import JobContext
from pipeline_lib.training.distributed import Engine
from pipeline_lib.training.metrics import Row
from pipeline_lib.training.microbatch import Branch, cut
from pipeline_lib.training.order import derived_seed, epoch_order
from pipeline_lib.training.packing import Tree
from pipeline_lib.training.policy import Policy, Switches, pack_for
from pipeline_lib.training.schedule import warmup_cosine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised sample; the response ends with end-of-sequence."""

    id: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]


@dataclass(slots=True)
class SftState:
    """What a checkpoint remembers besides weights."""

    step: int = 0
    rows: list[Row] = field(default_factory=list)


def run_sft(context: JobContext) -> None:
    """Run (or continue) the job to its end and write its outputs."""
    spec = context.spec
    params = SftParams.model_validate({key: spec.section[key] for key in SftParams.model_fields})
    engine_params = EngineParams.model_validate(spec.engine)
    switches = Switches(**spec.switches)
    tokenizer = load_tokenizer(context.input("model"))
    samples = read_samples(context.input("problems"))
    examples = tokenise(samples, tokenizer, params.max_tokens)
    if not examples:
        raise DataError(
            f"{context.input('problems')}: every sample is longer than max_tokens = {params.max_tokens}"
        )
    lm = load_model(context.input("model"), engine_params.dtype).to(context.world.device)
    engine = Engine(
        Policy(lm, switches, gathered=engine_params.zero_stage < 3),
        engine_params,
        context.world,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
    )
    state = SftState()
    if found := context.store.load({"policy": engine}):
        state = SftState(**found[0])
    per_epoch = math.ceil(len(examples) / params.batch_size)
    total = per_epoch * params.epochs
    progress = context.progress(total, state.step)
    while state.step < total:
        epoch, batch = divmod(state.step, per_epoch)
        order = epoch_order(len(examples), derived_seed(spec.seed, spec.name), epoch)
        chosen = [examples[i] for i in order[batch * params.batch_size : (batch + 1) * params.batch_size]]
        rate = warmup_cosine(
            state.step, total, params.learning_rate, params.warmup_ratio, params.final_lr_ratio
        )
        began = time.perf_counter()
        row = {"step": float(state.step), "epoch": float(epoch), "lr": rate}
        row |= train_batch(engine, chosen, params.microbatch_tokens, rate, switches)
        state.rows.append(row)
        seconds = time.perf_counter() - began
        context.log({**row, "time/step_s": seconds, "time/tokens_per_s": row["tokens"] / seconds}, state.step)
        state.step += 1
        progress.step(state.step, row)
        if state.step % params.checkpoint_every == 0 and state.step < total:
            context.store.save(state.step, {"policy": engine}, asdict(state), {})
        if state.step < total:
            context.leave_if_asked(state.step, {"policy": engine}, asdict(state), {})
    context.finish(engine, lm, tokenizer, state.rows, _summary(state.rows, len(samples), len(examples)))


def tokenise(
    samples: Sequence[SftSample], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> list[Example]:
    """Samples as token ids, those longer than `max_tokens` left out. DataError for an empty response."""
    examples = []
    for sample in samples:
        response = tuple(tokenizer(sample.response, add_special_tokens=False)["input_ids"])
        if not response:
            raise DataError(f"sample {sample.id}: its response has no tokens; remove it")
        prompt = tuple(render_prompt(tokenizer, sample.prompt))
        if len(prompt) + len(response) + 1 <= max_tokens:
            examples.append(Example(sample.id, prompt, (*response, int(tokenizer.eos_token_id))))
    return examples


def train_batch(
    engine: Engine,
    examples: Sequence[Example],
    microbatch_tokens: int,
    learning_rate: float,
    switches: Switches,
) -> Row:
    """One optimizer step on `examples` (all ranks' batch; each rank takes its share)."""
    world = engine.world
    mine = list(examples)[world.rank :: world.size]
    totals = Totals(len(examples), sum(len(example.response) for example in examples))
    micros = cut(_branches(mine), microbatch_tokens, by_length=switches.length_sorted)
    count = world.max(len(micros))
    loss_sum = 0.0
    policy: Any = engine.module
    for index in range(count):
        trees = [branch.tree for branch in micros[index]] if index < len(micros) else [Tree((0,), ((0,),))]
        packed = pack_for(policy.lm, trees, switches)
        logprobs_M = engine(packed, 1.0)
        if index >= len(micros):
            engine.backward(logprobs_M.sum() * 0.0, last=index == count - 1)
            continue
        _require_finite(
            logprobs_M, [mine[row] for branch in micros[index] for row in branch.rows], packed.mask_BT
        )
        loss = sft_loss(packed.unflatten(logprobs_M), packed.mask_BT, totals)
        engine.backward(loss, last=index == count - 1)
        loss_sum += float(loss.detach())
    norm = engine.step(learning_rate)
    return {"loss": world.sum([loss_sum])[0], "grad_norm": norm, "tokens": float(totals.tokens)}


def _branches(examples: Sequence[Example]) -> list[Branch]:
    """Examples with the same prompt share a tree."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, example in enumerate(examples):
        by_prompt.setdefault(example.prompt, []).append(row)
    return [
        Branch(Tree(prompt, [examples[row].response for row in rows]), tuple(rows))
        for prompt, rows in by_prompt.items()
    ]


def _require_finite(logprobs_M: Tensor, examples: Sequence[Example], mask_BT: Tensor) -> None:
    if torch.isfinite(logprobs_M).all():
        return
    bad_BT = torch.zeros(mask_BT.shape).masked_scatter(
        mask_BT.cpu(), (~torch.isfinite(logprobs_M)).float().cpu()
    )
    row = int(bad_BT.sum(dim=1).nonzero()[0])
    raise NonFiniteError(f"sample {examples[row].id}: the model's log-probabilities are not finite")


def _summary(rows: Sequence[Row], samples: int, used: int) -> dict[str, float]:
    window = rows[-10:]
    return {
        "steps": float(len(rows)),
        "loss": sum(row["loss"] for row in window) / max(len(window), 1),
        "first_loss": rows[0]["loss"] if rows else 0.0,
        "samples": float(samples),
        "samples_too_long": float(samples - used),
    }
