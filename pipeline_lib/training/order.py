"""The order in which data is seen: a seeded shuffle per epoch and a cursor, nothing else to remember.

The k-th item of the endless stream is a pure function of (seed, k), so a checkpoint needs one integer and every
rank can take its share without talking to the others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np


def derived_seed(*parts: object) -> int:
    """A 31-bit seed from anything printable; the same everywhere, unrelated for unrelated parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


@lru_cache(maxsize=4)
def epoch_order(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The permutation of `range(size)` seen in `epoch`."""
    return tuple(np.random.default_rng(derived_seed("order", seed, epoch)).permutation(size).tolist())


@dataclass(slots=True)
class Cursor:
    """A position in the endless shuffled stream over `size` items."""

    size: int
    seed: int
    position: int = field(default=0)

    def take(self, count: int) -> list[int]:
        """The next `count` indices. An item can come twice in one take only where an epoch ends in it."""
        taken = []
        for position in range(self.position, self.position + count):
            epoch, offset = divmod(position, self.size)
            taken.append(epoch_order(self.size, self.seed, epoch)[offset])
        self.position += count
        return taken
