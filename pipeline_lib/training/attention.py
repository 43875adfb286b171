"""Attention over the flat layout of `packing`, plugged into transformers as one more implementation.

transformers looks attention up by name (`config._attn_implementation`) and hands unknown keyword arguments of
`forward` down to it, so Qwen2, Llama and their relatives run unchanged; only this function sees the layout.
Exact: each completion attends to its prompt's keys and its own past, as if it had been fed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
    query_sizes = [bucket.rows * bucket.queries for bucket in layout.buckets]
    key_sizes = [bucket.rows * bucket.keys for bucket in layout.buckets]
    queries = query_THD.index_select(0, layout.query_index).split(query_sizes)
    keys = key_TKD.index_select(0, layout.key_index).split(key_sizes)
    values = value_TKD.index_select(0, layout.key_index).split(key_sizes)
    mixed = []
    for bucket, q, k, v in zip(layout.buckets, queries, keys, values, strict=True):
        mixed_BHQD = F.scaled_dot_product_attention(
            q.unflatten(0, (bucket.rows, bucket.queries)).transpose(1, 2),
            k.unflatten(0, (bucket.rows, bucket.keys)).transpose(1, 2),
            v.unflatten(0, (bucket.rows, bucket.keys)).transpose(1, 2),
            attn_mask=bucket.mask_BQS,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        mixed.append(mixed_BHQD.transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed).index_select(0, layout.restore_T).unsqueeze(0), None


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
