"""GRPO: group-relative policy optimisation (lesson ch.2; arXiv 2402.03300; v2 eq. 1-3).

    L = -1/S sum_i 1/|o_i| sum_t [ min(r_it A_i, clip(r_it, 1-eps, 1+eps) A_i) - beta KL_it ]

The lesson's wording: eps 0.2 on both sides, z-scored advantages, beta 0.01. v2: eps 10, k3, beta 0.001.
Departure from the lesson's code: the ratio is per token (as in the papers), where the code takes it per answer.
"""

from __future__ import annotations

from pipeline_lib.algorithms.aggregation import Totals, sequence_mean
from pipeline_lib.algorithms.policy import PolicyLoss, PolicySettings, PolicyTerms
from pipeline_lib.algorithms.surrogate import clipped_token_loss


def grpo_loss(terms: PolicyTerms, settings: PolicySettings, totals: Totals) -> PolicyLoss:
    """Loss of one micro-batch; micro-batches of a batch add up."""
    token = clipped_token_loss(terms, settings)
    loss = sequence_mean(token.loss_BT, terms.mask_BT, totals)
    return PolicyLoss(loss, token.clipped_tokens, token.kl_sum)
