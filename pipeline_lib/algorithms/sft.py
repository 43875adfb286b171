"""Supervised fine-tuning: negative log-likelihood of the response's tokens, the prompt's excluded (v2 B.4.2).

L = -1/(sum_i |o_i|) sum_i sum_t log pi(o_it)
"""

from __future__ import annotations

from torch import Tensor

from pipeline_lib.algorithms.aggregation import Totals, token_mean


def sft_loss(logprobs_BT: Tensor, mask_BT: Tensor, totals: Totals) -> Tensor:
    """Mean over the batch's response tokens, in nats. Micro-batches of a batch add up. Scalar."""
    return token_mean(-logprobs_BT, mask_BT, totals)
