"""Prompts and their completions as one padding-free row: what the model is fed in training (design §7).

A *tree* is a prompt with the completions that share it. A micro-batch of trees becomes one flat token stream,

    prompt_1 prompt_2 … | completion_11 completion_12 … completion_21 …        (1, P·N + sum R)

so that every linear layer runs on P + G·R tokens instead of G·(P + R), none of them padding. Only attention
needs to know who sees whom; `Layout` tells it (see `attention`). Positions are those of the unpacked sequence.

The last token of a completion predicts nothing and is not fed. The first is predicted by the prompt's last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BUCKET_RATIO = 1.3
"""Rows are attended together while the longest is at most this much longer than the shortest."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt and the completions sampled from it (token ids)."""

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        """Tokens that a forward pass feeds for this tree."""
        return len(self.prompt) + sum(max(len(c) - 1, 0) for c in self.completions)


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences of similar length that attend together, padded to (B, Q) queries and (B, S) keys."""

    rows: int
    queries: int
    keys: int
    mask_BQS: Tensor
    """(B, 1, Q, S) additive: 0 where a query sees a key, -inf where not."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Who sees whom in the flat stream.

    All buckets are gathered by one index and put back by one, because the backward pass of every gather from the
    stream costs a tensor of the stream's size.
    """

    buckets: tuple[Bucket, ...]
    query_index: Tensor
    """Stream position of every padded query, bucket after bucket; padding repeats position 0."""
    key_index: Tensor
    """Likewise for keys: a sequence's prefix, then its own tokens."""
    restore_T: Tensor
    """Where each stream position stands among the padded queries."""


@dataclass(frozen=True, slots=True)
class PackedTrees:
    """A micro-batch ready for the model."""

    input_ids_1T: Tensor
    position_ids_1T: Tensor
    layout: Layout
    predictors_M: Tensor
    """Index into the flat stream of the position that predicts each completion token."""
    targets_M: Tensor
    """The completion tokens, rows one after another."""
    mask_BT: Tensor
    """(rows, longest completion): where `targets_M` lies in the padded layout."""

    def unflatten(self, values_M: Tensor) -> Tensor:
        """Per-token values (M,) in the padded layout (B, T), zeros on padding; differentiable."""
        padded = values_M.new_zeros(self.mask_BT.shape)
        return padded.masked_scatter(self.mask_BT, values_M)


def pack(
    trees: Sequence[Tree], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> PackedTrees:
    """Lay `trees` out flat. Rows of `mask_BT` are the completions in the order given.

    `dtype` is the model's: the attention mask must have it. Raises ValueError for an empty prompt or completion.
    """
    if not trees or any(not len(t.prompt) or any(not len(c) for c in t.completions) for t in trees):
        raise ValueError("a tree needs a prompt and completions of at least one token each")
    prompts = [np.asarray(tree.prompt, dtype=np.int64) for tree in trees]
    rows = [
        (owner, np.asarray(c, dtype=np.int64)) for owner, tree in enumerate(trees) for c in tree.completions
    ]
    sizes = [len(p) for p in prompts] + [len(c) - 1 for _, c in rows]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    prompt_spans = [np.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)][: len(prompts)]
    fed_spans = [np.arange(s, s + n) for s, n in zip(starts, sizes, strict=True)][len(prompts) :]
    ids = np.concatenate(prompts + [c[:-1] for _, c in rows])
    positions = np.concatenate(
        [np.arange(len(p)) for p in prompts] + [len(prompts[o]) + np.arange(len(c) - 1) for o, c in rows]
    )
    predictors = [np.append(prompt_spans[o][-1], fed) for (o, _), fed in zip(rows, fed_spans, strict=True)]
    sequences = [(span[:0], span) for span in prompt_spans]
    sequences += [(prompt_spans[o], fed) for (o, _), fed in zip(rows, fed_spans, strict=True) if len(fed)]
    lengths = torch.tensor([len(c) for _, c in rows], dtype=torch.long)
    longest = int(lengths.max()) if rows else 0
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    return PackedTrees(
        input_ids_1T=torch.from_numpy(ids)[None].to(device),
        position_ids_1T=torch.from_numpy(positions)[None].to(device),
        layout=_layout(sequences, device, dtype),
        predictors_M=torch.from_numpy(np.concatenate(predictors or [ids[:0]])).to(device),
        targets_M=torch.from_numpy(np.concatenate([c for _, c in rows] or [ids[:0]])).to(device),
        mask_BT=mask.to(device),
    )


def _layout(
    sequences: list[tuple[np.ndarray, np.ndarray]], device: torch.device | str, dtype: torch.dtype
) -> Layout:
    """Buckets over (prefix indices, own indices): a query sees all of its prefix and its own past."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i][0]) + len(sequences[i][1]), i))
    groups: list[list[int]] = []
    for i in order:
        size = len(sequences[i][0]) + len(sequences[i][1])
        prefixed = bool(len(sequences[i][0]))
        if groups:
            head = groups[-1][0]
            same_kind = prefixed == bool(len(sequences[head][0]))
            if same_kind and size <= BUCKET_RATIO * (len(sequences[head][0]) + len(sequences[head][1])):
                groups[-1].append(i)
                continue
        groups.append([i])
    pieces = [_bucket([sequences[i] for i in group], device, dtype) for group in groups]
    queries = np.concatenate([queries.ravel() for _, queries, _, _ in pieces])
    real = np.concatenate([real.ravel() for _, _, _, real in pieces])
    restore = np.empty(int(real.sum()), dtype=np.int64)
    restore[queries[real]] = np.flatnonzero(real)
    return Layout(
        tuple(bucket for bucket, _, _, _ in pieces),
        torch.from_numpy(queries).to(device),
        torch.from_numpy(np.concatenate([keys.ravel() for _, _, keys, _ in pieces])).to(device),
        torch.from_numpy(restore).to(device),
    )


def _bucket(
    sequences: list[tuple[np.ndarray, np.ndarray]], device: torch.device | str, dtype: torch.dtype
) -> tuple[Bucket, np.ndarray, np.ndarray, np.ndarray]:
    """The bucket with its query positions (B, Q), key positions (B, S) and which queries are real (B, Q)."""
    prefix = np.array([len(p) for p, _ in sequences])
    own = np.array([len(o) for _, o in sequences])
    width_p, width_q = int(prefix.max()), int(own.max())
    queries = np.zeros((len(sequences), width_q), dtype=np.int64)
    keys = np.zeros((len(sequences), width_p + width_q), dtype=np.int64)
    for row, (before, mine) in enumerate(sequences):
        queries[row, : len(mine)] = mine
        keys[row, : len(before)] = before
        keys[row, width_p : width_p + len(mine)] = mine
    columns = np.arange(width_q)
    sees_prefix = np.broadcast_to(
        (np.arange(width_p) < prefix[:, None])[:, None], (len(sequences), width_q, width_p)
    )
    # A padded query sees itself and earlier padding, or its softmax would be 0/0; its output is dropped.
    sees_own = np.broadcast_to(columns[:, None] >= columns[None, :], (len(sequences), width_q, width_q))
    sees = torch.from_numpy(np.concatenate([sees_prefix, sees_own], axis=2))[:, None]
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, -torch.inf)
    bucket = Bucket(len(sequences), width_q, width_p + width_q, mask.to(device))
    return bucket, queries, keys, columns[None, :] < own[:, None]
