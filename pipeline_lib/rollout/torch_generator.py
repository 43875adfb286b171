"""The CPU's default sampler: a KV-cache loop around a transformers model's own weights.

Why it exists: on two cores and a model of a million parameters the arithmetic of a token costs less than
the Python around it. See docs/decisions/0006 for what was measured. What makes it fast:

- a prompt is prefilled once for its whole group of n samples, and its keys and values are shared out;
- finished rows leave the batch at once: the last active rows move into their slots;
- waiting prompts join a running batch as soon as slots are free. All rows share the current cache column,
  so a late prompt is simply placed to end there;
- keys and values live in one preallocated buffer, kept between calls.

The parameters may be the trainer's live ones: nothing is copied, no gradient is recorded, and the module's
training mode is neither read nor changed.

Determinism: the same weights, prompts, seed, thread count and row limit give the same tokens and the same
log-probability bytes. Another batch split moves log-probabilities by float rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline_lib.errors import ConfigError, NonFiniteError
from pipeline_lib.modeling import decode, end_token_ids
from pipeline_lib.rollout.decoder import Decoder
from pipeline_lib.rollout.protocol import GroupCallback, ProgressCallback, next_version, require_prompts
from pipeline_lib.rollout.slot_batch import SHIFT_SLACK, SamplerSwitches, SlotBatch
from pipeline_lib.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_ROWS = 256
"""Rows sampled together. Beyond it nothing is gained on a CPU (decision 0006)."""
KV_BUDGET_BYTES = 1 << 30
"""The cache never grows beyond this; long contexts or wide models get fewer rows at once."""


class TorchGenerator:
    """Generator over a transformers model of the Qwen2 or Llama family. See `protocol.Generator`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weight_version: int = 0,
        max_rows: int = MAX_ROWS,
        kv_budget_bytes: int = KV_BUDGET_BYTES,
        switches: SamplerSwitches | None = None,
    ) -> None:
        self.weight_version = weight_version
        self.switches = switches or SamplerSwitches()
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._kv_budget_bytes = kv_budget_bytes
        self._buffer: Tensor | None = None
        self._adopt(model)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        problem_ids: Sequence[str],
        sampling: SamplingParams,
        *,
        seed: int,
        on_progress: ProgressCallback | None = None,
        on_group: GroupCallback | None = None,
    ) -> list[list[Completion]]:
        """n completions for every prompt; see `protocol.Generator.generate`."""
        require_prompts(prompts, problem_ids)
        if not prompts:
            return []
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        if longest > self._decoder.max_positions:
            remedy = f"prompt and response reach {longest} tokens; the model has {self._decoder.max_positions} positions"
            raise ConfigError("max_new_tokens", sampling.max_new_tokens, remedy)
        with torch.inference_mode():
            rows = min(len(prompts) * sampling.n, self._row_limit(longest + SHIFT_SLACK))
            columns = longest + (SHIFT_SLACK if rows < len(prompts) * sampling.n else 0)
            batch = SlotBatch(
                self._decoder,
                self._cache(rows, columns),
                prompts,
                sampling,
                ends=self._ends,
                seed=seed,
                switches=self.switches,
            )
            groups: list[list[Completion]] = [[] for _ in prompts]
            for done, complete in batch.run():
                for prompt in complete:
                    groups[prompt] = self._completions(batch, prompt, prompts[prompt], problem_ids[prompt])
                    if on_group:
                        on_group(prompt, groups[prompt])
                if on_progress:
                    on_progress(done, len(prompts) * sampling.n)
            return groups

    def update_weights(self, model: PreTrainedModel, version: int) -> None:
        """Sample from `model` from now on. The trainer's own live module needs no copy: only the version moves."""
        self.weight_version = next_version(self.weight_version, version)
        if model is not self._decoder.model:
            self._adopt(model)

    def metrics(self) -> Mapping[str, float]:
        """Nothing to report."""
        return {}

    def sleep(self) -> None:
        """Give the cache's memory back until the next `generate`."""
        self._buffer = None

    def wake(self) -> None:
        """Nothing to do: the cache is allocated when it is needed."""

    def close(self) -> None:
        """Free the cache. The model belongs to the caller."""
        self._buffer = None

    def _adopt(self, model: PreTrainedModel) -> None:
        self._decoder = Decoder(model)
        self._ends = end_token_ids(model, self._tokenizer)

    def _completions(
        self, batch: SlotBatch, prompt: int, prompt_ids: Sequence[int], problem_id: str
    ) -> list[Completion]:
        """The finished samples of one prompt; NonFiniteError names problem and sample whose logits were not finite."""
        ids = tuple(prompt_ids)
        completions = []
        for sample, (tokens, logprobs, ended) in enumerate(batch.samples(prompt)):
            if not all(map(math.isfinite, logprobs)):
                raise NonFiniteError(
                    f"problem {problem_id}, sample {sample}: the model's logits are not finite"
                )
            completions.append(
                Completion(
                    problem_id=problem_id,
                    prompt_ids=ids,
                    token_ids=tokens,
                    logprobs=logprobs,
                    text=decode(self._tokenizer, tokens),
                    finished=ended,
                    weight_version=self.weight_version,
                )
            )
        return completions

    def _cache(self, rows: int, columns: int) -> Tensor:
        """The preallocated cache [2 * layers, rows, K, columns, D], grown only when too small."""
        decoder = self._decoder
        shape = (2 * len(decoder.layers), rows, decoder.kv_heads, columns, decoder.head_dim)
        size = math.prod(shape)
        held = self._buffer
        if (
            held is None
            or held.numel() < size
            or held.dtype != decoder.dtype
            or held.device != decoder.device
        ):
            # Zeros: a hidden column weighs 0, and 0 times what happens to lie in fresh memory may be NaN.
            self._buffer = held = torch.zeros(size, dtype=decoder.dtype, device=decoder.device)
        return held[:size].view(shape)

    def _row_limit(self, columns: int) -> int:
        """Rows that fit the cache budget with `columns` columns each."""
        decoder = self._decoder
        row_bytes = (
            2 * len(decoder.layers) * decoder.kv_heads * columns * decoder.head_dim * decoder.dtype.itemsize
        )
        limit = min(self._max_rows, self._kv_budget_bytes // row_bytes)
        if limit < 1:
            remedy = f"one row of {columns} tokens needs {row_bytes / 2**30:.1f} GiB of cache; shorten it or use vllm"
            raise ConfigError("max_new_tokens", columns, remedy)
        return limit
