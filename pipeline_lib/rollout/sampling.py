"""Choosing the next token: temperature, nucleus (top-p), and the log-probability that is recorded.

A token is drawn by inverting the cumulative distribution at one uniform number per row and step, fixed
before sampling starts. So what row i draws at step t depends on the seed and on its own logits only: not
on which rows share its batch, when others finish, or how prompts were split into waves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCKED_FROM = 4096
"""From this vocabulary on a draw is looked up by blocks: accumulating all of it in float64 would cost more."""


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
    blocks = blocks_of(logits_BV.shape[-1])
    if temperature == 0.0:
        tokens_B = logits_BV.argmax(-1)
        return tokens_B, _log_prob(logits_BV, tokens_B)
    if temperature != 1.0:
        logits_BV = logits_BV / temperature
    if top_p >= 1.0:
        largest_B1 = logits_BV.amax(-1, keepdim=True)
        weights_BV = (logits_BV - largest_B1).exp_()
        tokens_B = (
            _invert(weights_BV, draws_B) if blocks <= 1 else _invert_by_block(weights_BV, draws_B, blocks)
        )
        chosen_B1 = logits_BV.gather(-1, tokens_B[:, None]) - largest_B1
        return tokens_B, chosen_B1.squeeze(-1) - weights_BV.sum(-1).log_()
    tokens_B = _invert_nucleus(torch.softmax(logits_BV, -1), draws_B, top_p)
    return tokens_B, _log_prob(logits_BV, tokens_B)


def _log_prob(logits_BV: Tensor, tokens_B: Tensor) -> Tensor:
    return torch.log_softmax(logits_BV, -1).gather(-1, tokens_B[:, None]).squeeze(-1)


def blocks_of(vocabulary: int) -> int:
    """Blocks that a draw is looked up in: the divisor of `vocabulary` nearest below its square root; 1 for a small one."""
    if vocabulary < BLOCKED_FROM:
        return 1
    return next(blocks for blocks in range(math.isqrt(vocabulary), 0, -1) if vocabulary % blocks == 0)


def _invert_by_block(weights_BV: Tensor, draws_B: Tensor, blocks: int) -> Tensor:
    """As `_invert`, in two steps: the block of the vocabulary, then the token in it. Only one block is accumulated.

    Block sums are float32, so what is left of a draw may exceed its block's mass by a rounding; it is held below it.
    """
    weights_BnV = weights_BV.unflatten(-1, (blocks, -1))
    before_Bn = weights_BnV.sum(-1).cumsum(-1, dtype=torch.float64)
    total_B1 = before_Bn[:, -1:]
    targets_B1 = torch.minimum(draws_B[:, None] * total_B1, total_B1.nextafter(torch.zeros_like(total_B1)))
    block_B1 = torch.searchsorted(before_Bn, targets_B1, right=True).clamp_(max=blocks - 1)
    rows_B = torch.arange(len(weights_BV), device=weights_BV.device)
    inside_Bv = weights_BnV[rows_B, block_B1.squeeze(-1)].cumsum(-1, dtype=torch.float64)
    passed_B1 = torch.where(block_B1 > 0, before_Bn.gather(-1, (block_B1 - 1).clamp_(min=0)), 0.0)
    rest_B1 = (targets_B1 - passed_B1).clamp_(min=0.0)
    rest_B1 = torch.minimum(rest_B1, inside_Bv[:, -1:].nextafter(torch.zeros_like(rest_B1)))
    token_B1 = torch.searchsorted(inside_Bv, rest_B1, right=True).clamp_(max=inside_Bv.shape[-1] - 1)
    return (block_B1 * inside_Bv.shape[-1] + token_B1).squeeze(-1)


def _invert(probs_BV: Tensor, draws_B: Tensor) -> Tensor:
    """The first token whose cumulative share exceeds the draw, in float64 so that tails keep theirs.

    `probs_BV` need not add up to one.
    """
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
