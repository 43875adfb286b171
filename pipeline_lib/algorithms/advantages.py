"""Group-relative advantages: the group of G answers to one problem is its own baseline (lesson ch.2).

    A_i = (r_i - mean(r_1..r_G)) / (std(r_1..r_G) + eps)         GRPO, v2 eq. 3; std with G - 1, as the lesson's code
    A_i =  r_i - mean(r_1..r_G)                                  Dr. GRPO (arXiv 2503.20783), REINFORCE baseline

A sample the verifier could not judge (`signal_NG` False) is no part of the mean or the std and gets 0.
A group whose judged rewards are all equal gets exactly 0: it is found by comparison, not by a small std,
because the mean of equal floats need not equal them.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-8
"""Added to the std, as in the lesson's code."""


def has_variance(rewards_NG: Tensor, signal_NG: Tensor) -> Tensor:
    """(N,) bool: True where at least two judged samples of the group have different rewards."""
    highest = rewards_NG.masked_fill(~signal_NG, -torch.inf).amax(dim=1)
    lowest = rewards_NG.masked_fill(~signal_NG, torch.inf).amin(dim=1)
    return highest > lowest


def centered(rewards_NG: Tensor, signal_NG: Tensor) -> Tensor:
    """r - mean of the group's judged samples; 0 for unjudged samples and groups without variance. (N, G)."""
    _require_finite(rewards_NG, signal_NG)
    rewards_NG = torch.where(signal_NG, rewards_NG, torch.zeros_like(rewards_NG))
    mean_N1 = rewards_NG.sum(dim=1, keepdim=True) / signal_NG.sum(dim=1, keepdim=True).clamp(min=1)
    live_NG = signal_NG & has_variance(rewards_NG, signal_NG)[:, None]
    return torch.where(live_NG, rewards_NG - mean_N1, torch.zeros_like(rewards_NG))


def zscore(rewards_NG: Tensor, signal_NG: Tensor) -> Tensor:
    """(r - mean) / (std + eps) within each group; zeros where `centered` has them. (N, G)."""
    centered_NG = centered(rewards_NG, signal_NG)
    degrees_N1 = (signal_NG.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    std_N1 = (centered_NG.square().sum(dim=1, keepdim=True) / degrees_N1).sqrt()
    return centered_NG / (std_N1 + EPSILON)


def _require_finite(rewards_NG: Tensor, signal_NG: Tensor) -> None:
    if not torch.isfinite(rewards_NG[signal_NG]).all():
        raise ValueError("a judged reward is NaN or infinite; mask the sample or repair the reward")
