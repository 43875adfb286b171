"""REINFORCE with the group's mean as baseline (Williams 1992; the simplest thing that could work).

    L = -1/S sum_i sum_t [ w_it A_i log pi(o_it) - beta KL_it ],     A_i = r_i - mean(r)

No ratio and no clip. Where the policy has moved since the rollout, w is the truncated importance weight of the
*current* policy against the sampler; on policy it is 1.
"""

from __future__ import annotations

import torch

from pipeline_lib.algorithms.aggregation import Totals, sequence_sum
from pipeline_lib.algorithms.importance import truncated_weight
from pipeline_lib.algorithms.policy import PolicyLoss, PolicySettings, PolicyTerms
from pipeline_lib.algorithms.surrogate import kl_penalty


def reinforce_loss(terms: PolicyTerms, settings: PolicySettings, totals: Totals) -> PolicyLoss:
    """Loss of one micro-batch; micro-batches of a batch add up."""
    weighted_BT = terms.advantages_BT * terms.logprobs_BT
    if terms.sampler_logprobs_BT is not None:
        weighted_BT = weighted_BT * truncated_weight(
            terms.logprobs_BT, terms.sampler_logprobs_BT, terms.mask_BT, settings.importance_cap
        )
    kl_BT = kl_penalty(terms, settings)
    loss = sequence_sum(-(weighted_BT - settings.kl_coef * kl_BT), terms.mask_BT, totals)
    return PolicyLoss(loss, torch.zeros((), dtype=torch.long), kl_BT.detach().sum())
