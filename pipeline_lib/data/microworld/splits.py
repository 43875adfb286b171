"""Which side of the split a prompt is on: a hash decides, so no drawing order or size can mix the two."""

from __future__ import annotations

import hashlib

HELDOUT_ONE_IN = 5


def is_heldout(prompt: str) -> bool:
    """True for the prompts that neither pretraining nor any training stage may see."""
    return hashlib.sha256(prompt.encode()).digest()[0] % HELDOUT_ONE_IN == 0
