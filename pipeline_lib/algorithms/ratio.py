"""The probability ratio and PPO's clipped surrogate (lesson ch.2; arXiv 1707.06347 eq. 7).

    r_t = pi(o_t) / pi_old(o_t)
    s_t = min(r_t A, clip(r_t, 1 - eps_low, 1 + eps_high) A)

One epsilon on both sides is PPO and GRPO; a larger eps_high is DAPO's "clip higher" (arXiv 2503.14476 eq. 10).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline_lib.algorithms.masks import zero_padding

LOG_RATIO_BOUND = 20.0
"""exp(20) is 5e8: far outside every clip, and still finite in float32."""


class Surrogate(NamedTuple):
    """What is maximised, and where the clip decided."""

    objective_BT: Tensor
    clipped_BT: Tensor


def importance_ratio(logprobs_BT: Tensor, old_logprobs_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """pi / pi_old per token, exactly 1 on padding: `exp` never sees it. (B, T)."""
    log_ratio_BT = zero_padding(logprobs_BT - old_logprobs_BT, mask_BT)
    return log_ratio_BT.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def clipped_surrogate(
    ratio_BT: Tensor, advantages_BT: Tensor, clip_low: float, clip_high: float
) -> Surrogate:
    """min(r A, clip(r) A) per token; `clipped_BT` is True where the clip removed the gradient.

    `advantages_BT` is (B, 1) for one advantage a sequence or (B, T) for one a token.
    """
    plain_BT = ratio_BT * advantages_BT
    bounded_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages_BT
    return Surrogate(torch.minimum(plain_BT, bounded_BT), bounded_BT < plain_BT)
