"""Log-probabilities of chosen tokens without keeping the vocabulary-wide tensors they are made of.

    log p(y | h) = z_y - logsumexp(z),   z = W h / temperature

The plain way (`log_softmax(...).gather(...)`) holds three (M, V) tensors until the backward pass. Here the
forward keeps none: rows go through the head in chunks, and the backward pass computes them again (design §7).
Checked against the plain way in tests/invariants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Logits held at once: 16 MiB in float32."""


def plain_logprobs(hidden_ME: Tensor, head: torch.nn.Module, targets_M: Tensor, temperature: float) -> Tensor:
    """(M,) by the definition, through the head's own `forward` (ZeRO-3 gathers its weight there)."""
    logits_MV = head(hidden_ME).float() / temperature
    return logits_MV.log_softmax(-1).gather(-1, targets_M[:, None]).squeeze(-1)


def chunked_logprobs(hidden_ME: Tensor, weight_VE: Tensor, targets_M: Tensor, temperature: float) -> Tensor:
    """(M,), equal to `plain_logprobs` up to rounding, in memory of one chunk. The head has no bias."""
    rows = max(CHUNK_ELEMENTS // weight_VE.shape[0], 1)
    result: Tensor = _ChunkedLogprobs.apply(hidden_ME, weight_VE, targets_M, temperature, rows)
    return result


class _ChunkedLogprobs(torch.autograd.Function):
    """d log p_y / dz = onehot(y) - softmax(z)."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ME: Tensor, weight_VE: Tensor, targets_M: Tensor, temperature: float, rows: int
    ) -> Tensor:
        logprobs_M = torch.empty(len(targets_M), dtype=torch.float32, device=hidden_ME.device)
        normaliser_M = torch.empty_like(logprobs_M)
        for start in range(0, len(targets_M), rows):
            part = slice(start, start + rows)
            logits_mV = (hidden_ME[part] @ weight_VE.T).float().div_(temperature)
            normaliser_M[part] = logits_mV.logsumexp(-1)
            logprobs_M[part] = logits_mV.gather(-1, targets_M[part, None]).squeeze(-1) - normaliser_M[part]
        ctx.save_for_backward(hidden_ME, weight_VE, targets_M, normaliser_M)
        ctx.temperature, ctx.rows = temperature, rows
        return logprobs_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_ME, weight_VE, targets_M, normaliser_M = ctx.saved_tensors
        grad_M = grads[0]
        grad_hidden_ME = torch.empty_like(hidden_ME)
        grad_weight_VE = torch.zeros_like(weight_VE)
        for start in range(0, len(targets_M), ctx.rows):
            part = slice(start, start + ctx.rows)
            logits_mV = (hidden_ME[part] @ weight_VE.T).float().div_(ctx.temperature)
            slope_mV = logits_mV.sub_(normaliser_M[part, None]).exp_().neg_()
            slope_mV.scatter_add_(-1, targets_M[part, None], torch.ones_like(slope_mV[:, :1]))
            slope_mV.mul_(grad_M[part, None] / ctx.temperature)
            slope_mV = slope_mV.to(weight_VE.dtype)
            grad_hidden_ME[part] = slope_mV @ weight_VE
            grad_weight_VE.addmm_(slope_mV.T, hidden_ME[part])
        return grad_hidden_ME, grad_weight_VE, None, None, None
