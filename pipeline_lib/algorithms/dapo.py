"""DAPO: decoupled clip and dynamic sampling (arXiv 2503.14476).

    L = -1/(sum_i |o_i|) sum_i sum_t min(r_it A_i, clip(r_it, 1-eps_low, 1+eps_high) A_i)         eq. 8

"Clip higher" is `clip_high > clip_low` (the paper: 0.2, 0.28). Dynamic sampling (eq. 11) keeps only groups with
some right and some wrong answer and samples others in their place: `keeps_group` decides, the trainer refills.
Overlong shaping (eq. 13) is a reward: `pipeline_lib.rewards.overlong`. The paper drops the KL term; here that is kl_coef = 0.
"""

from __future__ import annotations

from torch import Tensor

from pipeline_lib.algorithms.advantages import has_variance
from pipeline_lib.algorithms.aggregation import Totals, token_mean
from pipeline_lib.algorithms.policy import PolicyLoss, PolicySettings, PolicyTerms
from pipeline_lib.algorithms.surrogate import clipped_token_loss


def dapo_loss(terms: PolicyTerms, settings: PolicySettings, totals: Totals) -> PolicyLoss:
    """Loss of one micro-batch; micro-batches of a batch add up."""
    token = clipped_token_loss(terms, settings)
    loss = token_mean(token.loss_BT, terms.mask_BT, totals)
    return PolicyLoss(loss, token.clipped_tokens, token.kl_sum)


def keeps_group(rewards_NG: Tensor, signal_NG: Tensor) -> Tensor:
    """(N,) bool: True for groups that dynamic sampling keeps."""
    return has_variance(rewards_NG, signal_NG)
