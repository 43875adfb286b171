"""Estimators of KL(pi || pi_ref) from samples of pi (joschu.net/blog/kl-approx.html; v2 eq. 2 uses k3).

With d = log pi_ref - log pi of a sampled token:

    k1 = -d                 unbiased, any sign (the lesson's code)
    k2 = d^2 / 2            biased, never negative
    k3 = exp(d) - d - 1     unbiased, never negative

d is clamped before `exp`: a token the reference finds impossible must not turn the step into infinity.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_lib.algorithms.masks import zero_padding

LOG_DIFFERENCE_BOUND = 20.0


def kl_divergence(
    logprobs_BT: Tensor, reference_logprobs_BT: Tensor, mask_BT: Tensor, estimator: str
) -> Tensor:
    """Per-token estimate of KL(pi || pi_ref) in nats, 0 on padding. (B, T)."""
    difference_BT = zero_padding(reference_logprobs_BT - logprobs_BT, mask_BT)
    difference_BT = difference_BT.clamp(-LOG_DIFFERENCE_BOUND, LOG_DIFFERENCE_BOUND)
    if estimator == "k1":
        return -difference_BT
    if estimator == "k2":
        return difference_BT.square() / 2
    if estimator == "k3":
        return torch.expm1(difference_BT) - difference_BT
    raise ValueError(f"KL estimator {estimator!r} is unknown: use k1, k2 or k3")
