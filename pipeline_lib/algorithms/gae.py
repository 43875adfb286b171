"""Generalised advantage estimation (arXiv 1506.02438): what a critic buys PPO, and what GRPO does without.

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t     = delta_t + gamma lambda A_{t+1}

The reward of an answer arrives on its last token; a value beyond it is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_lib.algorithms.masks import zero_padding


def terminal_rewards(rewards_B: Tensor, mask_BT: Tensor) -> Tensor:
    """The answer's reward on its last real token, 0 elsewhere. (B,) -> (B, T)."""
    last_B = mask_BT.sum(dim=1).clamp(min=1) - 1
    rewards_BT = torch.zeros(mask_BT.shape, dtype=rewards_B.dtype, device=rewards_B.device)
    return zero_padding(rewards_BT.scatter(1, last_B[:, None], rewards_B[:, None]), mask_BT)


@torch.no_grad()
def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages_BT, returns_BT), both 0 on padding; returns = advantages + values."""
    values_BT = zero_padding(values_BT, mask_BT)
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = running_B = values_BT.new_zeros(len(values_BT))
    for t in reversed(range(values_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        running_B = torch.where(mask_BT[:, t], delta_B + gamma * lam * running_B, torch.zeros_like(running_B))
        advantages_BT[:, t] = running_B
        next_value_B = values_BT[:, t]
    return advantages_BT, advantages_BT + values_BT
