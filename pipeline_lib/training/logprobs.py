"""Log-probabilities of chosen tokens without keeping all the vocabulary-wide tensors they are made of.

    log p(y | h) = z_y - logsumexp(z),   z = W h / temperature

The plain way (`log_softmax(...).gather(...)`) holds three (M, V) tensors until the backward pass. Here rows go
through the head in chunks. The backward pass needs exp(z - max): chunks keep it, in place of their logits, until the
budget is spent; the others compute it again, one product of four, to the same bits (design §7). Checked against the
plain way in tests/invariants.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Logits computed at once: 64 MiB in float32. Below a few hundred rows the products lose a third of their speed."""
KEPT_BYTES = 1 << 29
"""Exponentials kept from one forward pass to its backward pass."""


def plain_logprobs(hidden_ME: Tensor, head: torch.nn.Module, targets_M: Tensor, temperature: float) -> Tensor:
    """(M,) by the definition, through the head's own `forward` (ZeRO-3 gathers its weight there)."""
    logits_MV = head(hidden_ME).float() / temperature
    return logits_MV.log_softmax(-1).gather(-1, targets_M[:, None]).squeeze(-1)


def chunked_logprobs(
    hidden_ME: Tensor, weight_VE: Tensor, targets_M: Tensor, temperature: float, *, keep: bool = True
) -> Tensor:
    """(M,), equal to `plain_logprobs` up to rounding, in memory of KEPT_BYTES and one chunk. The head has no bias.

    `keep` False: every chunk is computed again in the backward pass.
    """
    rows = max(CHUNK_ELEMENTS // weight_VE.shape[0], 1)
    kept_rows = KEPT_BYTES // (4 * weight_VE.shape[0]) if keep and torch.is_grad_enabled() else 0
    result: Tensor = _ChunkedLogprobs.apply(hidden_ME, weight_VE, targets_M, temperature, rows, kept_rows)
    return result


class _ChunkedLogprobs(torch.autograd.Function):
    """d log p_y / dz = onehot(y) - softmax(z)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: Tensor,
        weight_VE: Tensor,
        targets_M: Tensor,
        temperature: float,
        rows: int,
        kept_rows: int,
    ) -> Tensor:
        logprobs_M = torch.empty(len(targets_M), dtype=torch.float32, device=hidden_ME.device)
        ctx.kept = {}
        for start in range(0, len(targets_M), rows):
            part = slice(start, start + rows)
            logits_mV = _logits(hidden_ME[part], weight_VE, temperature)
            chosen_m = logits_mV.gather(-1, targets_M[part, None]).squeeze(-1)
            largest_m, total_m = _exponentials(logits_mV)
            logprobs_M[part] = chosen_m - largest_m - total_m.log()
            if start + len(logits_mV) <= kept_rows:
                ctx.kept[start] = logits_mV, total_m
        ctx.save_for_backward(hidden_ME, weight_VE, targets_M)
        ctx.temperature, ctx.rows = temperature, rows
        return logprobs_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden_ME, weight_VE, targets_M = ctx.saved_tensors
        grad_M = grads[0] / ctx.temperature
        grad_hidden_ME = torch.empty_like(hidden_ME)
        grad_weight_VE = torch.zeros_like(weight_VE)
        for start in range(0, len(targets_M), ctx.rows):
            part = slice(start, start + ctx.rows)
            kept = ctx.kept.pop(
                start, None
            )  # its storage becomes the slope: a second backward computes it again
            if kept is None:
                exponentials_mV = _logits(hidden_ME[part], weight_VE, ctx.temperature)
                _, total_m = _exponentials(exponentials_mV)
            else:
                exponentials_mV, total_m = kept
            slope_mV = exponentials_mV.mul_((-grad_M[part] / total_m)[:, None])
            slope_mV.scatter_add_(-1, targets_M[part, None], grad_M[part, None])
            slope_mV = slope_mV.to(weight_VE.dtype)
            grad_hidden_ME[part] = slope_mV @ weight_VE
            grad_weight_VE.addmm_(slope_mV.T, hidden_ME[part])
        return grad_hidden_ME, grad_weight_VE, None, None, None, None


def _logits(hidden_mE: Tensor, weight_VE: Tensor, temperature: float) -> Tensor:
    return (hidden_mE @ weight_VE.T).float().div_(temperature)


def _exponentials(logits_mV: Tensor) -> tuple[Tensor, Tensor]:
    """Turn logits into exp(logit - the row's largest), in place; (the largest, the sum) of each row.

    Five plain passes: `logsumexp` and `log_softmax` take three times as long on a CPU and keep nothing for later.
    """
    largest_m = logits_mV.amax(-1)
    logits_mV.sub_(largest_m[:, None]).exp_()
    return largest_m, logits_mV.sum(-1)
