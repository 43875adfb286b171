"""What every policy objective takes and returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyTerms:
    """One micro-batch of sampled answers. Log-probabilities are of the sampled tokens, in nats."""

    logprobs_BT: Tensor
    """Under the policy being trained; carries the gradient."""
    old_logprobs_BT: Tensor
    """Under the policy at the time of the rollout; no gradient."""
    advantages_BT: Tensor
    """(B, 1): one a sequence, or (B, T): one a token."""
    mask_BT: Tensor
    """True on completion tokens of judged samples."""
    reference_logprobs_BT: Tensor | None = None
    """Under the reference model; None when the KL coefficient is 0."""
    sampler_logprobs_BT: Tensor | None = None
    """As the sampler reported them; None switches truncated importance sampling off."""


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """The numbers of an objective (params: the GRPO sections)."""

    clip_low: float
    clip_high: float
    kl_coef: float
    kl_estimator: str
    importance_cap: float
    max_tokens: int
    """Length limit of a completion: Dr. GRPO's constant."""


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss to minimise, and sums over the micro-batch's tokens for the metrics (detached)."""

    loss: Tensor
    clipped_tokens: Tensor
    kl_sum: Tensor
