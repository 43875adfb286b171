"""Choosing the next token: temperature, nucleus (top-p), and the log-probability that is recorded.

A token is drawn by inverting the cumulative distribution at one uniform number per row and step, fixed
before sampling starts. So what row i draws at step t depends on the seed and on its own logits only: not
on which rows share its batch, when others finish, or how prompts were split into waves.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_draws(rows: int, steps: int, seed: int) -> Tensor:
    """One uniform number in [0, 1) for every row and step, float64 on the CPU. Shape [rows, steps]."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.rand((rows, steps), generator=generator, dtype=torch.float64)


def pick_tokens(
    logits_BV: Tensor, draws_B: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Tokens [B] (int64) and their log-probabilities [B] (float32) from logits [B, V].

    The log-probability is that of the tempered distribution over the whole vocabulary, computed in
    float32; the nucleus cut is not part of it (the policy gradient's ratio needs the full softmax).
    Temperature 0 is greedy, and its log-probabilities are at temperature 1.
    """
    logits_BV = logits_BV.float()
    if temperature == 0.0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, _log_prob(logits_BV, tokens_B)
    if temperature != 1.0:
        logits_BV = logits_BV / temperature
    probs_BV = torch.softmax(logits_BV, -1)
    tokens_B = _invert(probs_BV, draws_B) if top_p >= 1.0 else _invert_nucleus(probs_BV, draws_B, top_p)
    return tokens_B, _log_prob(logits_BV, tokens_B)


def _log_prob(logits_BV: Tensor, tokens_B: Tensor) -> Tensor:
    return torch.log_softmax(logits_BV, -1).gather(-1, tokens_B[:, None]).squeeze(-1)


def _invert(probs_BV: Tensor, draws_B: Tensor) -> Tensor:
    """The first token whose cumulative probability exceeds the draw, in float64 so that tails keep theirs."""
    cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
    targets_B1 = draws_B[:, None] * cumulative_BV[:, -1:]
    return (
        torch.searchsorted(cumulative_BV, targets_B1, right=True)
        .squeeze(-1)
        .clamp_(max=probs_BV.shape[-1] - 1)
    )


def _invert_nucleus(probs_BV: Tensor, draws_B: Tensor, top_p: float) -> Tensor:
    """As `_invert`, over the smallest set of most likely tokens whose mass reaches `top_p` (Holtzman 2020)."""
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    before_BV = sorted_BV.cumsum(-1, dtype=torch.float64) - sorted_BV
    kept_BV = sorted_BV.masked_fill(before_BV >= top_p, 0.0)
    return order_BV.gather(-1, _invert(kept_BV, draws_B)[:, None]).squeeze(-1)
