"""Does the trainer agree with the sampler? Compared on every step, token by token (issue 3).

A wrong prompt, a stale weight or a different temperature shows here first. Where both compute in float32 from
the same weights the difference is rounding, and more is an error: of one token where both are torch, of the mean
where kernels differ. In a lower precision it is reported and corrected by truncated importance sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline_lib.errors import PipelineError
from pipeline_lib.training.distributed import World

EXACT_TOLERANCE = 2e-3
"""Nats a token: float32 sampler and trainer. Rounding gives about 1e-5; a wrong weight gives 0.1 and more."""
KERNEL_TOLERANCE = 0.02
"""Nats a token, mean over a step: another engine, both float32. vLLM on a CPU stays below 1e-3 in its worst token
(tests/integration); the rest is room for a GPU's tf32 products, whose steps are 8 times finer than bfloat16's. A head
left at old weights, which decision 0006 met, gave 0.3 to 0.5."""
LOOSE_TOLERANCE = 2.0
"""Nats a token, mean over a step: half precision."""
EDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class SamplerDisagrees(PipelineError):
    """The sampler's log-probabilities are not the trainer's: it samples from another policy."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Absolute differences of the log-probabilities of the sampled tokens, in nats."""

    tokens: int
    largest: float
    mean: float
    above: tuple[float, ...]
    """Share of tokens whose difference exceeds each of `EDGES`."""

    def metrics(self) -> dict[str, float]:
        """How many tokens were compared, and where there were any, how far they are apart."""
        compared = {"logprobs_compared": float(self.tokens)}
        if not self.tokens:
            return compared
        return {**compared, "logprob_diff_max": self.largest, "logprob_diff_mean": self.mean}

    def histogram(self) -> dict[str, float]:
        """`above` by edge; nothing where nothing was compared."""
        if not self.tokens:
            return {}
        return {f"logprob_diff_above_{edge:g}": share for edge, share in zip(EDGES, self.above, strict=True)}


def measure_agreement(differences: Sequence[Tensor], world: World) -> Agreement:
    """Over all ranks' tokens; zeros when there is none."""
    flat = torch.cat(list(differences)).double().cpu() if differences else torch.zeros(0, dtype=torch.float64)
    local = [float(len(flat)), float(flat.sum()), *(float((flat > edge).sum()) for edge in EDGES)]
    count, total, *above = world.sum(local)
    largest = max(world.gather(float(flat.max()) if len(flat) else 0.0))
    tokens = max(count, 1.0)
    return Agreement(int(count), largest, total / tokens, tuple(value / tokens for value in above))


def require_agreement(agreement: Agreement, *, rollout: str, dtype: str, step: int) -> None:
    """Raise SamplerDisagrees beyond the tolerance of `engine.rollout` and `engine.dtype`."""
    if rollout == "torch" and dtype == "float32" and agreement.largest > EXACT_TOLERANCE:
        raise SamplerDisagrees(
            f"step {step}: a token's log-probability differs by {agreement.largest:.4f} nats between sampler and "
            f"trainer (tolerance {EXACT_TOLERANCE}); they do not hold the same weights, prompt or temperature"
        )
    tolerance = KERNEL_TOLERANCE if dtype == "float32" else LOOSE_TOLERANCE
    if agreement.mean > tolerance:
        raise SamplerDisagrees(
            f"step {step}: log-probabilities differ by {agreement.mean:.3f} nats on average between sampler and "
            f"trainer (tolerance {tolerance})"
        )
