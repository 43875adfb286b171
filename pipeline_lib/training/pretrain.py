"""Pretraining of the micro base model and the student initialisations on the micro-world corpus.

A plain, tight loop: next-token loss on the replies only, AdamW, warm-up and cosine, documents of like length in one
batch. Clean worked solutions come first and the mixture only at the end: from the mixture alone, looking an operand up
in the prompt is not learned in ten times the time (docs/decisions/0001-micro-world.md). It runs on
one thread, so that the weights do not depend on how many cores add the sums up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pipeline_lib.data.microworld.corpus import Phase, corpus
from pipeline_lib.data.microworld.vocabulary import build_tokenizer

log = logging.getLogger(__name__)

IGNORED = -100
_PIECES = 2
_PHASES: tuple[Phase, Phase] = ("clean", "mixture")


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a micro model. Embeddings are tied."""

    family: Literal["qwen2", "llama"]
    width: int
    layers: int
    heads: int
    mlp_width: int


ARCHITECTURES: dict[str, Architecture] = {
    "base": Architecture("qwen2", width=128, layers=3, heads=4, mlp_width=384),
    "qwen-xs": Architecture("qwen2", width=96, layers=3, heads=3, mlp_width=256),
    "llama-xs": Architecture("llama", width=96, layers=3, heads=3, mlp_width=256),
}


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """One pretraining run."""

    model: str
    """Key of ARCHITECTURES."""
    seed: int
    clean_steps: int
    """Updates on clean solutions, before the mixture."""
    mixture_steps: int
    documents: int
    """Documents an update."""
    learning_rate: float
    mixture_rate: float
    """Learning rate at the start of the mixture; a cosine takes it to a twentieth at the end."""
    warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """A freshly initialised fp32 model; the same seed gives the same weights."""
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": architecture.width,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.heads,
        "intermediate_size": architecture.mlp_width,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(seed)
    if architecture.family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Qwen2ForCausalLM(Qwen2Config(**shape))


def _encode(
    tokenizer: PreTrainedTokenizerFast, documents: list[tuple[str, str]]
) -> list[tuple[list[int], int]]:
    """(token ids with <eos>, length of the prompt) per document; a plain document has no prompt."""
    prompts = [f"Q: {prompt}\nA:" if prompt else "" for prompt, _ in documents]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    reply_ids = tokenizer([reply for _, reply in documents], add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    return [(p + r + [eos], len(p)) for p, r in zip(prompt_ids, reply_ids, strict=True)]


def updates(
    tokenizer: PreTrainedTokenizerFast, seed: int, phase: Phase, documents: int
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Endless updates of `documents` random documents, each as _PIECES pieces of like length.

    A piece is (inputs, targets), both [documents / _PIECES, T]; a target is the next token, or IGNORED in prompt and
    padding. Whole batches of like length would be cheaper, but then a mean over tokens weighs a guess's few tokens
    ten times a solution's: the model came to guess 90 % of the time where the corpus guesses 60 %.
    """
    stream, size = corpus(seed, phase), documents // _PIECES
    while True:
        drawn = sorted(_encode(tokenizer, list(islice(stream, documents))), key=lambda item: len(item[0]))
        yield [_piece(drawn[i : i + size], tokenizer.pad_token_id) for i in range(0, len(drawn), size)]


def _piece(group: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(ids) for ids, _ in group)
    rows = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in group])
    targets = rows.clone()
    for row, (ids, prompt_length) in enumerate(group):
        targets[row, :prompt_length] = IGNORED
        targets[row, len(ids) :] = IGNORED
    return rows[:, :-1], targets[:, 1:]


def _rate(config: PretrainConfig, step: int) -> float:
    """Warm-up, then constant through the clean phase, then a cosine over the mixture."""
    if step < config.clean_steps:
        return config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
    progress = (step - config.clean_steps) / config.mixture_steps
    return config.mixture_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def reply_loss(model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Summed negative log-likelihood of the counted targets.

    Right padding needs no mask: no counted token sees it.
    """
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state
    counted = targets != IGNORED
    return torch.nn.functional.cross_entropy(
        model.lm_head(hidden[counted]), targets[counted], reduction="sum"
    )


def pretrain(
    config: PretrainConfig,
    report_every: int = 200,
    on_report: Callable[[int, PreTrainedModel, PreTrainedTokenizerFast], None] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Train from scratch; logs loss and speed every `report_every` updates. Deterministic on CPU.

    `on_report(step, model, tokenizer)` is called after each report, to measure or keep an intermediate model.
    """
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = build_model(ARCHITECTURES[config.model], tokenizer, config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
        fused=True,
    )
    streams = {phase: updates(tokenizer, config.seed, phase, config.documents) for phase in _PHASES}
    total, n_tokens, loss_sum, start = config.clean_steps + config.mixture_steps, 0, 0.0, time.perf_counter()
    for step in range(total):
        phase = _PHASES[step >= config.clean_steps]
        for group in optimizer.param_groups:
            group["lr"] = _rate(config, step)
        pieces = next(streams[phase])
        counted = sum(int((targets != IGNORED).sum()) for _, targets in pieces)
        for inputs, targets in pieces:
            loss = reply_loss(model, inputs, targets) / counted
            loss.backward()
            n_tokens, loss_sum = n_tokens + inputs.numel(), loss_sum + loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % report_every == 0:
            speed = n_tokens / (time.perf_counter() - start)
            log.info(
                "%s %d/%d %s loss %.3f, %.0f tokens/s",
                config.model,
                step + 1,
                total,
                phase,
                loss_sum / report_every,
                speed,
            )
            loss_sum = 0.0
            if on_report is not None:
                on_report(step + 1, model, tokenizer)
    return model, tokenizer


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a model directory in fp16 (11 significant bits, half the size); training reads it back as fp32."""
    model.to(torch.float16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    ).save_pretrained(directory)
