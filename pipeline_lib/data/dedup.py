"""Drop problems that say the same thing twice; the first one stays.

Three kinds: `exact` (the same prompt), `normalised` (the same words, whatever case and punctuation) and `near`: at
least 20 words, the same numbers, and at least 80 % of their three-word runs in common. The numbers must agree
because a word problem with other numbers is another problem. Candidates for `near` come from MinHash banding
(Broder 1997), each one is then compared exactly, so a hash collision never drops a problem.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.data.words import ngrams, words
from pipeline_lib.types import Problem

NEAR_WORDS = 20
NEAR_SIMILARITY = 0.8
_SHINGLE = 3
_BANDS, _ROWS = 16, 4
_PRIME = (1 << 31) - 1
"""Hashes stay below 2^31, so that a product of two fits 63 bits."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Dropped:
    """A problem that was dropped, and the earlier one that it repeats."""

    id: str
    kept_id: str
    kind: str
    """exact, normalised or near."""


def deduplicate(problems: Sequence[Problem]) -> tuple[list[Problem], list[Dropped]]:
    """The problems without repeats, in order, and what was dropped."""
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    exact: dict[str, str] = {}
    normalised: dict[tuple[str, ...], str] = {}
    near = _NearIndex()
    for problem in problems:
        sequence = words(problem.prompt)
        if problem.prompt in exact:
            dropped.append(Dropped(problem.id, exact[problem.prompt], "exact"))
        elif sequence in normalised:
            dropped.append(Dropped(problem.id, normalised[sequence], "normalised"))
        elif (twin := near.find(problem, sequence)) is not None:
            dropped.append(Dropped(problem.id, twin, "near"))
        else:
            exact[problem.prompt] = problem.id
            normalised[sequence] = problem.id
            near.add(problem, sequence)
            kept.append(problem)
    return kept, dropped


def count_kinds(dropped: Sequence[Dropped]) -> dict[str, int]:
    """How many of each kind, every kind named."""
    counts = Counter(item.kind for item in dropped)
    return {kind: counts[kind] for kind in ("exact", "normalised", "near")}


class _NearIndex:
    """Prompts seen so far, by the bands of their MinHash signature."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._scale = draw.integers(1, _PRIME, (_BANDS * _ROWS, 1), dtype=np.int64)
        self._shift = draw.integers(0, _PRIME, (_BANDS * _ROWS, 1), dtype=np.int64)
        self._bands: dict[tuple[object, ...], list[str]] = {}
        self._shingles: dict[str, set[tuple[str, ...]]] = {}

    def find(self, problem: Problem, sequence: tuple[str, ...]) -> str | None:
        """The id of an earlier near-duplicate, or None."""
        if len(sequence) < NEAR_WORDS:
            return None
        shingles = ngrams(sequence, _SHINGLE)
        for key in self._keys(problem, shingles):
            for other in self._bands.get(key, ()):
                common = len(shingles & self._shingles[other])
                if common >= NEAR_SIMILARITY * (len(shingles) + len(self._shingles[other]) - common):
                    return other
        return None

    def add(self, problem: Problem, sequence: tuple[str, ...]) -> None:
        """Remember a prompt."""
        if len(sequence) < NEAR_WORDS:
            return
        shingles = ngrams(sequence, _SHINGLE)
        self._shingles[problem.id] = shingles
        for key in self._keys(problem, shingles):
            self._bands.setdefault(key, []).append(problem.id)

    def _keys(self, problem: Problem, shingles: set[tuple[str, ...]]) -> list[tuple[object, ...]]:
        """One key a band: prompts that share one, and their numbers, are compared."""
        numbers = tuple(sorted(_NUMBER.findall(problem.prompt)))
        hashes = np.array([_hash(shingle) for shingle in sorted(shingles)], dtype=np.int64)
        signature = ((self._scale * hashes + self._shift) % _PRIME).min(axis=1).reshape(_BANDS, _ROWS)
        return [(band, numbers, *row) for band, row in enumerate(signature.tolist())]


def _hash(shingle: tuple[str, ...]) -> int:
    """A hash below 2^31 that every process computes alike."""
    return int.from_bytes(hashlib.blake2b(" ".join(shingle).encode(), digest_size=4).digest(), "big") % _PRIME
