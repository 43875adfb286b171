"""Many samples at once in one preallocated cache: the loop inside the torch sampler.

A row (one sample) holds a slot from its prompt's prefill to its last token. All rows write the same cache
column at a step, so a prompt that joins late is placed to end at the current column and what lies before
it is hidden; when the columns run out, the used window moves back to the first one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline_lib.rollout.decoder import Decoder, Rotation
from pipeline_lib.rollout.sampling import pick_tokens, uniform_draws
from pipeline_lib.types import SamplingParams

PREFILL_TOKENS = 8192
"""Prompt tokens, padding included, prefilled in one forward."""
SHIFT_SLACK = 128
"""Spare cache columns: with prompts waiting, the window is moved back to column 0 once every so many steps."""


@dataclass(frozen=True, slots=True)
class SamplerSwitches:
    """What makes sampling fast (design §7), one switch each. All on by default; benchmarks turn them off."""

    share_prompts: bool = True
    """A prompt is prefilled once for its whole group. Off: once for every sample."""
    drop_finished: bool = True
    """Finished rows leave, and waiting prompts take their slots. Off: a batch stays whole until its last row ends."""


@dataclass(frozen=True, slots=True)
class _Work:
    """Up to a batch of samples of one prompt; a group larger than the batch is several of these."""

    prompt: int
    first_row: int
    count: int


class SlotBatch:
    """One call of `generate`: the waiting work, the active rows, and what they have produced.

    Slots 0 … active-1 are in use. `state` holds a row's numbers by slot (columns named below); results are
    indexed by global row = prompt * n + sample.
    """

    ROW, START, POSITION, COUNT, TOKEN = range(5)

    def __init__(
        self,
        decoder: Decoder,
        cache: Tensor,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        ends: Iterable[int],
        seed: int,
        switches: SamplerSwitches,
    ) -> None:
        """`cache` is [2 * layers, slots, K, columns, D] and holds the longest prompt and response.

        With fewer slots than samples it needs SHIFT_SLACK columns more.
        """
        self.decoder, self.cache = decoder, cache
        self.prompts, self.sampling, self.switches = prompts, sampling, switches
        self.slots, self.columns = cache.shape[1], cache.shape[3]
        total, steps, device = len(prompts) * sampling.n, sampling.max_new_tokens, decoder.device
        longest_prompt = max(map(len, prompts))
        self.rotation: Rotation = decoder.rotation(longest_prompt + steps)
        self.draws = uniform_draws(total, steps, seed).to(device)
        self.ends = torch.tensor(sorted({*ends, *sampling.stop_token_ids}), device=device)
        self.state = torch.zeros((self.slots, 5), dtype=torch.long, device=device)
        self.tokens = torch.zeros((total, steps), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((total, steps), device=device)
        self.lengths = torch.zeros(total, dtype=torch.long, device=device)
        self.ended = torch.zeros(total, dtype=torch.bool, device=device)
        self.waiting = self._plan()
        self.active = 0
        self.column = longest_prompt
        """The next column to write: every active row's prompt and response end just before it."""
        self.left = [sampling.n] * len(prompts)
        self.retired: list[int] = []

    def run(self) -> Iterator[tuple[int, list[int]]]:
        """Sample everything; yield (samples finished so far, prompts whose last sample just finished)."""
        done = 0
        while self.active or self.waiting:
            while self.waiting and self._should_admit():
                self._admit()
            if self.active:
                self._step()
            if self.retired:
                done += len(self.retired)
                yield done, self._complete_prompts()

    def samples(self, prompt: int) -> Iterator[tuple[tuple[int, ...], tuple[float, ...], bool]]:
        """(tokens, log-probabilities, ended by an end token) of each sample of a finished prompt."""
        rows = slice(prompt * self.sampling.n, (prompt + 1) * self.sampling.n)
        for tokens, logprobs, length, ended in zip(
            self.tokens[rows].tolist(),
            self.logprobs[rows].tolist(),
            self.lengths[rows].tolist(),
            self.ended[rows].tolist(),
            strict=True,
        ):
            yield tuple(tokens[:length]), tuple(logprobs[:length]), ended

    def _plan(self) -> list[_Work]:
        """The work, in reverse order of admission: longest prompts first, so that a wave pads little."""
        order = sorted(range(len(self.prompts)), key=lambda index: (-len(self.prompts[index]), index))
        n, work = self.sampling.n, []
        most = self.slots if self.switches.share_prompts else 1
        for prompt in order:
            for first in range(0, n, most):
                work.append(_Work(prompt, prompt * n + first, min(most, n - first)))
        return work[::-1]

    def _should_admit(self) -> bool:
        """Admit in batches: a prefill for every freed slot would cost more than the empty slots do."""
        free = self.slots - self.active
        if not self.switches.drop_finished and self.active and int(self.state[0, self.COUNT]) > 1:
            return False
        enough = min(self.slots // 4, sum(work.count for work in self.waiting))
        return free >= max(enough, self.waiting[-1].count)

    def _admit(self) -> None:
        """Prefill waiting prompts into the free slots and draw their first tokens."""
        batch: list[_Work] = []
        free, width = self.slots - self.active, 0
        while self.waiting and self.waiting[-1].count <= free:
            width = max(width, len(self.prompts[self.waiting[-1].prompt]))
            if batch and width * (len(batch) + 1) > PREFILL_TOKENS:
                break
            batch.append(self.waiting.pop())
            free -= batch[-1].count
        device = self.decoder.device
        lengths = torch.tensor([len(self.prompts[work.prompt]) for work in batch], device=device)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        for row, work in enumerate(batch):
            prompt = torch.tensor(self.prompts[work.prompt])
            ids[row, width - len(prompt) :] = prompt
        shape = (self.cache.shape[0], len(batch), self.decoder.kv_heads, width, self.decoder.head_dim)
        prompt_cache = torch.empty(shape, dtype=self.cache.dtype, device=device)
        logits = self.decoder.prefill(ids.to(device), lengths, self.rotation, prompt_cache)

        counts = torch.tensor([work.count for work in batch], device=device)
        first, last = self.active, self.active + int(counts.sum())
        begin = self.column - width
        for layer in range(self.cache.shape[0]):
            self.cache[layer, first:last, :, begin : self.column] = prompt_cache[layer].repeat_interleave(
                counts, 0
            )
        rows = [torch.arange(work.first_row, work.first_row + work.count) for work in batch]
        new = self.state[first:last]
        new[:, self.ROW] = torch.cat(rows).to(device)
        new[:, self.START] = (self.column - lengths).repeat_interleave(counts)
        new[:, self.POSITION] = lengths.repeat_interleave(counts)
        new[:, self.COUNT] = 0
        self.active = last
        self._accept(slice(first, last), logits.repeat_interleave(counts, 0))

    def _step(self) -> None:
        """Feed every active row its last token, draw the next one."""
        if self.column == self.columns:
            self._rewind()
        state = self.state[: self.active]
        starts = state[:, self.START]
        begin = int(starts.min())
        window = slice(begin, self.column + 1)
        hidden = None
        if int(starts.max()) > begin:
            columns = torch.arange(begin, self.column + 1, device=starts.device)
            hidden = torch.zeros((self.active, len(columns)), dtype=self.cache.dtype, device=starts.device)
            hidden.masked_fill_(columns[None] < starts[:, None], -math.inf)
        rotation = self.rotation.at(state[:, self.POSITION])
        logits = self.decoder.step(state[:, self.TOKEN], rotation, self.cache, window, hidden)
        self.column += 1
        state[:, self.POSITION] += 1
        self._accept(slice(0, self.active), logits)

    def _accept(self, slots: slice, logits: Tensor) -> None:
        """Draw a token for each of `slots`, record it, and retire the rows that it finishes."""
        state = self.state[slots]
        rows, steps = state[:, self.ROW], state[:, self.COUNT]
        tokens, logprobs = pick_tokens(
            logits, self.draws[rows, steps], self.sampling.temperature, self.sampling.top_p
        )
        self.tokens[rows, steps] = tokens
        self.logprobs[rows, steps] = logprobs
        state[:, self.TOKEN] = tokens
        steps += 1
        ended = torch.isin(tokens, self.ends)
        finishes = ended | (steps == self.sampling.max_new_tokens)
        if not self.switches.drop_finished:
            finishes &= self.lengths[rows] == 0  # what a finished row goes on to draw does not count
        finished = finishes.nonzero().squeeze(-1)
        if len(finished):
            retired = rows[finished]
            self.lengths[retired] = steps[finished]
            self.ended[retired] = ended[finished]
            if self.switches.drop_finished:
                self._compact(finished + slots.start)
                self.retired += retired.tolist()
            else:
                self._leave_together()

    def _leave_together(self) -> None:
        """Without `drop_finished`: free all slots once every active row has finished."""
        rows = self.state[: self.active, self.ROW]
        if bool((self.lengths[rows] > 0).all()):
            self.retired += rows.tolist()
            self.active = 0

    def _compact(self, gone: Tensor) -> None:
        """Free the slots `gone`: the last active rows move into those that lie before the new end."""
        end = self.active - len(gone)
        stays = torch.ones(self.active, dtype=torch.bool, device=gone.device)
        stays[gone] = False
        source = stays[end:].nonzero().squeeze(-1) + end
        target = gone[gone < end]
        if len(target):
            begin = int(self.state[: self.active, self.START].min())
            used = slice(begin, self.column)
            for layer in self.cache:
                layer[target, :, used] = layer[source, :, used]
            self.state[target] = self.state[source]
        self.active = end

    def _rewind(self) -> None:
        """Move the window back to column 0 when the cache's last column is used up."""
        begin = int(self.state[: self.active, self.START].min())
        used = self.column - begin
        for layer in self.cache:
            layer[: self.active, :, :used] = layer[: self.active, :, begin : self.column].clone()
        self.state[: self.active, self.START] -= begin
        # A later prompt must still fit before the current column.
        self.column = used

    def _complete_prompts(self) -> list[int]:
        """Account for the retired rows; the prompts that have no sample left to finish."""
        owners = [row // self.sampling.n for row in self.retired]
        self.retired = []
        for prompt in owners:
            self.left[prompt] -= 1
        return [prompt for prompt in sorted(set(owners)) if self.left[prompt] == 0]
