"""The helpfulness reward model's loss: Bradley-Terry on pairs (v2 B.3.1).

P(chosen > rejected) = sigmoid(s_chosen - s_rejected),     L = -1/B sum log P
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor, total_pairs: int) -> Tensor:
    """Negative log-likelihood of the preferences, summed and divided by the whole batch's pairs. Scalar."""
    return -F.logsigmoid(chosen_B - rejected_B).sum() / max(total_pairs, 1)
