"""Masks over padded completions, and the two operations that keep padding out of every number.

Padding may hold anything, NaN included: `zero_padding` selects instead of multiplying (NaN x 0 is NaN), so
no later `exp`, sum or gradient sees it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def completion_mask(lengths_B: Tensor, width: int) -> Tensor:
    """True on the first `lengths_B[b]` of `width` positions: (B,) integers -> (B, T) bool."""
    return torch.arange(width, device=lengths_B.device)[None, :] < lengths_B[:, None]


def zero_padding(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """`values_BT` where the mask is True, exactly 0 elsewhere; no gradient flows to the padding."""
    return torch.where(mask_BT, values_BT, torch.zeros_like(values_BT))


def masked_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the True positions; 0 when there is none."""
    return zero_padding(values_BT, mask_BT).sum() / mask_BT.sum().clamp(min=1)
