"""Truncated importance sampling: the sampler is not the trainer (fengyao.notion.site/off-policy-rl; issue 3).

    w_t = min(pi(o_t) / pi_sampler(o_t), cap)       no gradient

`pi` is the trainer's policy at the time of the rollout where the objective carries its own ratio (GRPO, DAPO,
PPO), and the current policy where it carries none (REINFORCE).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_lib.algorithms.ratio import importance_ratio


@torch.no_grad()
def truncated_weight(logprobs_BT: Tensor, sampler_logprobs_BT: Tensor, mask_BT: Tensor, cap: float) -> Tensor:
    """min(pi / pi_sampler, cap) per token, exactly 1 on padding. (B, T), detached."""
    return importance_ratio(logprobs_BT, sampler_logprobs_BT, mask_BT).clamp(max=cap)
