"""From one number a token to the loss of a batch. The three ways differ in what a long answer weighs.

    sequence mean     1/S  sum_i 1/|o_i| sum_t l_it      GRPO: every answer weighs the same
    token mean        1/(sum_i |o_i|) sum_i sum_t l_it   DAPO: every token weighs the same
    constant length   1/(S L_max) sum_i sum_t l_it       Dr. GRPO: no length in the normaliser
    sequence sum      1/S  sum_i sum_t l_it              REINFORCE: log-probability of the whole answer

S and the token count are those of the whole batch (`Totals`), not of the micro-batch at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline_lib.algorithms.masks import zero_padding


@dataclass(frozen=True, slots=True)
class Totals:
    """What the whole batch (all ranks, all micro-batches) is divided by: judged sequences and their tokens."""

    sequences: int
    tokens: int


def sequence_mean(values_BT: Tensor, mask_BT: Tensor, totals: Totals) -> Tensor:
    """Mean over each answer's tokens, then over the batch's answers. Scalar."""
    lengths_B = mask_BT.sum(dim=1).clamp(min=1)
    return (zero_padding(values_BT, mask_BT).sum(dim=1) / lengths_B).sum() / max(totals.sequences, 1)


def token_mean(values_BT: Tensor, mask_BT: Tensor, totals: Totals) -> Tensor:
    """Mean over all tokens of the batch. Scalar."""
    return zero_padding(values_BT, mask_BT).sum() / max(totals.tokens, 1)


def constant_length(values_BT: Tensor, mask_BT: Tensor, totals: Totals, max_tokens: int) -> Tensor:
    """Sum over tokens divided by answers x the length limit. Scalar."""
    return zero_padding(values_BT, mask_BT).sum() / (max(totals.sequences, 1) * max_tokens)


def sequence_sum(values_BT: Tensor, mask_BT: Tensor, totals: Totals) -> Tensor:
    """Sum over each answer's tokens, mean over the batch's answers. Scalar."""
    return zero_padding(values_BT, mask_BT).sum() / max(totals.sequences, 1)
