"""Dr. GRPO: GRPO done right, without its two biases (arXiv 2503.20783).

    L = -1/(S L_max) sum_i sum_t min(r_it A_i, clip(r_it) A_i),      A_i = r_i - mean(r)

No division by the group's std (which favours problems that are nearly always or never solved) and none by the
answer's own length (which lets wrong answers grow); L_max is the length limit, a constant.
"""

from __future__ import annotations

from pipeline_lib.algorithms.aggregation import Totals, constant_length
from pipeline_lib.algorithms.policy import PolicyLoss, PolicySettings, PolicyTerms
from pipeline_lib.algorithms.surrogate import clipped_token_loss


def dr_grpo_loss(terms: PolicyTerms, settings: PolicySettings, totals: Totals) -> PolicyLoss:
    """Loss of one micro-batch; micro-batches of a batch add up."""
    token = clipped_token_loss(terms, settings)
    loss = constant_length(token.loss_BT, terms.mask_BT, totals, settings.max_tokens)
    return PolicyLoss(loss, token.clipped_tokens, token.kl_sum)
