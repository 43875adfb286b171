"""The safety reward model's loss: pointwise binary cross-entropy, safe or unsafe (v2 B.3.1).

P(safe) = sigmoid(s),     L = -1/B sum [ y log P + (1 - y) log(1 - P) ]
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def safety_loss(scores_B: Tensor, safe_B: Tensor, total: int) -> Tensor:
    """Cross-entropy of the judgement `safe_B` (1 safe, 0 unsafe), divided by the whole batch's examples. Scalar."""
    loss = F.binary_cross_entropy_with_logits(scores_B, safe_B.to(scores_B.dtype), reduction="sum")
    return loss / max(total, 1)
