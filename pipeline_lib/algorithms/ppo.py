"""PPO with a learned critic: what the lesson compares GRPO with (arXiv 1707.06347; lesson ch.2 table).

    L_policy = -1/T sum min(r_t A_t, clip(r_t) A_t) + beta KL_t           A_t from `gae`, one a token
    L_value  =  1/T sum 1/2 max( (V - R)^2, (clip(V, V_old +- eps) - R)^2 )

The critic is a second model of the policy's size: that is the memory GRPO saves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_lib.algorithms.aggregation import Totals, token_mean
from pipeline_lib.algorithms.masks import zero_padding
from pipeline_lib.algorithms.policy import PolicyLoss, PolicySettings, PolicyTerms
from pipeline_lib.algorithms.surrogate import clipped_token_loss


def ppo_loss(terms: PolicyTerms, settings: PolicySettings, totals: Totals) -> PolicyLoss:
    """Policy loss of one micro-batch; `terms.advantages_BT` holds one advantage a token."""
    token = clipped_token_loss(terms, settings)
    loss = token_mean(token.loss_BT, terms.mask_BT, totals)
    return PolicyLoss(loss, token.clipped_tokens, token.kl_sum)


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float, totals: Totals
) -> Tensor:
    """Clipped squared error of the critic over the batch's tokens. Scalar."""
    values_BT = zero_padding(values_BT, mask_BT)
    near_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    error_BT = torch.maximum((values_BT - returns_BT).square(), (near_BT - returns_BT).square())
    return token_mean(error_BT / 2, mask_BT, totals)
