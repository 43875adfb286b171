"""Attention over the flat layout of `packing`, plugged into transformers as one more implementation.

transformers looks attention up by name (`config._attn_implementation`) and hands unknown keyword arguments of
`forward` down to it, so Qwen2, Llama and their relatives run unchanged; only this function sees the layout.
Exact: each completion attends to its prompt's keys and its own past, as if it had been fed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_lib.training.packing import Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "packed_trees"


def packed_tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(1, H, T, D) queries and (1, K, T, D) keys and values -> ((1, T, H, D), None), transformers' shapes."""
    query_THD, key_TKD, value_TKD = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(query_THD, key_TKD, value_TKD, layout, scaling).unsqueeze(0), None


def attend(
    query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, layout: Layout, scaling: float | None
) -> Tensor:
    """(T, H, D) queries and (T, K, D) keys and values of the flat stream -> (T, H, D)."""
    query_sizes = [bucket.rows * bucket.queries for bucket in layout.buckets]
    key_sizes = [bucket.rows * bucket.keys for bucket in layout.buckets]
    padded_NHD = cast(Tensor, _Pad.apply(query_THD, layout.query_index, layout.restore_T))
    keys = key_TKD.index_select(0, layout.key_index).split(key_sizes)
    values = value_TKD.index_select(0, layout.key_index).split(key_sizes)
    mixed = []
    for bucket, q, k, v in zip(layout.buckets, padded_NHD.split(query_sizes), keys, values, strict=True):
        mixed_BHQD = F.scaled_dot_product_attention(
            q.unflatten(0, (bucket.rows, bucket.queries)).transpose(1, 2),
            k.unflatten(0, (bucket.rows, bucket.keys)).transpose(1, 2),
            v.unflatten(0, (bucket.rows, bucket.keys)).transpose(1, 2),
            attn_mask=bucket.mask_BQS,
            scale=scaling,
            enable_gqa=query_THD.shape[1] != key_TKD.shape[1],
        )
        mixed.append(mixed_BHQD.transpose(1, 2).flatten(0, 1))
    return cast(Tensor, _Unpad.apply(torch.cat(mixed), layout.restore_T))


class _Pad(torch.autograd.Function):
    """Stream rows -> padded rows. Padding is never read (`_Unpad`), so its gradient is zero and the backward pass a gather.

    torch's own backward of `index_select` adds up, row by row, into a tensor of zeros.
    """

    @staticmethod
    def forward(ctx: Any, stream_THD: Tensor, index_N: Tensor, restore_T: Tensor) -> Tensor:
        ctx.save_for_backward(restore_T)
        return stream_THD.index_select(0, index_N)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (restore_T,) = ctx.saved_tensors
        return grads[0].index_select(0, restore_T), None, None


class _Unpad(torch.autograd.Function):
    """Padded rows -> stream rows, each once; the backward pass puts them where they came from."""

    @staticmethod
    def forward(ctx: Any, padded_NHD: Tensor, restore_T: Tensor) -> Tensor:
        ctx.save_for_backward(restore_T)
        ctx.shape = padded_NHD.shape
        return padded_NHD.index_select(0, restore_T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (restore_T,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, restore_T, grads[0]), None


@contextmanager
def packed_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside, `model` attends over packed trees; outside it is as it was (the sampler may share it)."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_tree_attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
