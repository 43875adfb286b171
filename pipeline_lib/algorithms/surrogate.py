"""The part GRPO, DAPO, Dr. GRPO and PPO share: each token's loss, before they aggregate it differently.

l_t = -( w_t min(r_t A, clip(r_t) A) - beta KL_t )
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline_lib.algorithms.importance import truncated_weight
from pipeline_lib.algorithms.kl import kl_divergence
from pipeline_lib.algorithms.policy import PolicySettings, PolicyTerms
from pipeline_lib.algorithms.ratio import clipped_surrogate, importance_ratio


class TokenLoss(NamedTuple):
    """One loss a token, with the metrics' sums."""

    loss_BT: Tensor
    clipped_tokens: Tensor
    kl_sum: Tensor


def clipped_token_loss(terms: PolicyTerms, settings: PolicySettings) -> TokenLoss:
    """Clipped surrogate, corrected for the sampler, with the KL penalty. (B, T)."""
    ratio_BT = importance_ratio(terms.logprobs_BT, terms.old_logprobs_BT, terms.mask_BT)
    objective_BT, clipped_BT = clipped_surrogate(
        ratio_BT, terms.advantages_BT, settings.clip_low, settings.clip_high
    )
    if terms.sampler_logprobs_BT is not None:
        objective_BT = objective_BT * truncated_weight(
            terms.old_logprobs_BT, terms.sampler_logprobs_BT, terms.mask_BT, settings.importance_cap
        )
    kl_BT = kl_penalty(terms, settings)
    return TokenLoss(
        -(objective_BT - settings.kl_coef * kl_BT),
        (clipped_BT & terms.mask_BT).sum(),
        kl_BT.detach().sum(),
    )


def kl_penalty(terms: PolicyTerms, settings: PolicySettings) -> Tensor:
    """KL to the reference per token, or zeros when there is no reference. (B, T)."""
    if terms.reference_logprobs_BT is None:
        return torch.zeros_like(terms.logprobs_BT)
    return kl_divergence(terms.logprobs_BT, terms.reference_logprobs_BT, terms.mask_BT, settings.kl_estimator)
