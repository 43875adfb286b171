"""Cutting a rollout into minibatches, and those into micro-batches by token budget, similar lengths together (design §7).

A minibatch is one optimizer step. The cut into micro-batches changes memory and speed only: losses are sums over the
minibatch's totals, so the gradient is the same whatever the budget (tests/invariants).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline_lib.training.packing import Tree
from pipeline_lib.training.rollout_step import Group
from pipeline_lib.types import Domain


@dataclass(frozen=True, slots=True)
class Branch:
    """A tree and where its completions stand in the batch (row numbers)."""

    tree: Tree
    rows: tuple[int, ...]


def minibatches(groups: Sequence[Group], count: int) -> list[list[Group]]:
    """This rank's groups in `count` parts, each with its share of the general ones and of the others, in order.

    Rank r of n holds every n-th problem of the rollout from r on. Parts of neighbours therefore hold the same problems
    on any number of ranks, as long as these hold equally many.
    """
    general = [group for group in groups if group.problem.domain is Domain.GENERAL]
    others = [group for group in groups if group.problem.domain is not Domain.GENERAL]
    return [_part(others, index, count) + _part(general, index, count) for index in range(count)]


def cut(branches: Sequence[Branch], budget: int, *, by_length: bool = True) -> list[list[Branch]]:
    """Micro-batches of at most `budget` fed tokens each; a single completion above it stands alone.

    A group that exceeds the budget is split; its prompt is then fed once per part. With `by_length` groups and
    the completions within a group go from short to long.
    """
    parts = [part for branch in branches for part in _split(branch, budget, by_length)]
    if by_length:
        parts.sort(key=lambda part: (max(map(len, part.tree.completions)), part.rows))
    batches: list[list[Branch]] = []
    room = 0
    for part in parts:
        if not batches or part.tree.tokens > room:
            batches.append([])
            room = budget
        batches[-1].append(part)
        room -= part.tree.tokens
    return batches


def _part(groups: list[Group], index: int, count: int) -> list[Group]:
    return groups[len(groups) * index // count : len(groups) * (index + 1) // count]


def _split(branch: Branch, budget: int, by_length: bool) -> list[Branch]:
    """The branch in parts of at most `budget` tokens."""
    if branch.tree.tokens <= budget:
        return [branch]
    pairs = list(zip(branch.tree.completions, branch.rows, strict=True))
    if by_length:
        pairs.sort(key=lambda pair: (len(pair[0]), pair[1]))
    parts: list[list[tuple[Sequence[int], int]]] = []
    used = budget + 1
    for completion, row in pairs:
        size = len(completion) - 1
        if used + size > budget:
            parts.append([])
            used = len(branch.tree.prompt)
        parts[-1].append((completion, row))
        used += size
    return [
        Branch(Tree(branch.tree.prompt, [c for c, _ in part]), tuple(row for _, row in part))
        for part in parts
    ]
