"""Drop problems that say the same thing twice; the first one stays.

Three kinds: `exact` (the same prompt), `normalised` (the same words, whatever case and punctuation) and `near`: at
least 20 words, the same numbers, and at least 80 % of their three-word runs in common. The numbers must agree
because a word problem with other numbers is another problem. Candidates for `near` come from MinHash banding
(Broder 1997), each one is then compared exactly, so a hash collision never drops a problem.

Memory: about 400 bytes a problem beside the problems themselves. All signatures are computed first, in batches; then
only band keys that occur twice need a table, and what two candidates share is computed when they meet.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline_lib.data.words import ngrams, words
from pipeline_lib.types import Problem

NEAR_WORDS = 20
NEAR_SIMILARITY = 0.8
_SHINGLE = 3
_BANDS, _ROWS = 16, 4
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_BATCH = 4096
"""Words hashed together: what 64 hash functions make of their shingles stays in the processor's cache."""
_QUIET_SECONDS = 5.0
"""A progress bar appears only for work that takes longer."""

Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


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
    exact: dict[str, int] = {}
    normalised: dict[bytes, int] = {}
    prints = _Prints(problems)
    near = _NearIndex(problems, prints)
    for number, problem in enumerate(problems):
        digest = prints.words[number]
        if (twin := exact.get(problem.prompt)) is not None:
            kind = "exact"
        elif (twin := normalised.get(digest)) is not None and _same_words(problem, problems[twin]):
            kind = "normalised"
        elif (twin := near.find(number)) is not None:
            kind = "near"
        else:
            exact[problem.prompt] = number
            normalised.setdefault(digest, number)
            near.add(number)
            kept.append(problem)
            continue
        dropped.append(Dropped(problem.id, problems[twin].id, kind))
    return kept, dropped


def count_kinds(dropped: Sequence[Dropped]) -> dict[str, int]:
    """How many of each kind, every kind named."""
    counts = Counter(item.kind for item in dropped)
    return {kind: counts[kind] for kind in ("exact", "normalised", "near")}


def _same_words(one: Problem, other: Problem) -> bool:
    return words(one.prompt) == words(other.prompt)


class _Prints:
    """What is kept of every prompt: a hash of its words and, where it is long enough, its band keys."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        draw = np.random.default_rng(0)
        self._scale = 2 * draw.integers(1 << 63, size=(_BANDS * _ROWS, 1), dtype=np.uint64) + 1
        """The hash functions: an odd factor orders all 64-bit numbers anew, each its own way."""
        self.words: list[bytes] = []
        self.long: list[int] = []
        """Numbers of the problems that have keys, in order."""
        self.keys: Keys = np.concatenate([np.empty((0, _BANDS), dtype=np.uint64), *self._batches(problems)])
        """[len(long), bands]: prompts that share a key, and their numbers, are compared."""

    def _batches(self, problems: Sequence[Problem]) -> Iterator[Keys]:
        texts: list[tuple[str, ...]] = []
        numbers: list[int] = []
        waiting = 0
        for place, problem in enumerate(
            tqdm(problems, "deduplicate", unit="problem", delay=_QUIET_SECONDS, mininterval=2)
        ):
            sequence = words(problem.prompt)
            self.words.append(hashlib.blake2b(" ".join(sequence).encode(), digest_size=16).digest())
            if len(sequence) < NEAR_WORDS:
                continue
            self.long.append(place)
            texts.append(sequence)
            numbers.append(_hash64("\0".join(_numbers(problem))))
            waiting += len(sequence)
            if waiting >= _BATCH:
                yield self._keys(*_shingle_hashes(texts), numbers)
                texts, numbers, waiting = [], [], 0
        if texts:
            yield self._keys(*_shingle_hashes(texts), numbers)

    def _keys(self, hashes: Keys, starts: Places, numbers: list[int]) -> Keys:
        """The band keys [problems, bands] of problems whose shingles begin at `starts` of `hashes`."""
        drawn = self._scale * hashes  # modulo 2^64
        signature = np.minimum.reduceat(drawn, starts, axis=1).T.reshape(len(starts), _BANDS, _ROWS)
        keys = np.array(numbers, dtype=np.uint64)[:, None] + np.arange(_BANDS, dtype=np.uint64)
        for row in range(_ROWS):
            keys = _mix(keys ^ signature[:, :, row])
        return keys


class _NearIndex:
    """Prompts kept so far, by those of their band keys that another prompt has too."""

    def __init__(self, problems: Sequence[Problem], prints: _Prints) -> None:
        self._problems = problems
        ordered = np.sort(prints.keys, axis=None)
        shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        self._keys: dict[int, list[int]] = {}
        """Problem -> its shared keys, in the order of the bands."""
        for first in range(0, len(prints.long), _BATCH):
            keys = prints.keys[first : first + _BATCH]
            found = _is_among(keys, shared)
            for row in np.flatnonzero(found.any(axis=1)).tolist():
                self._keys[prints.long[first + row]] = keys[row][found[row]].tolist()
        self._bands: dict[int, list[int]] = {}

    def find(self, number: int) -> int | None:
        """The number of an earlier near-duplicate, or None."""
        shingles: set[tuple[str, ...]] | None = None
        for key in self._keys.get(number, ()):
            for other in self._bands.get(key, ()):
                if _numbers(self._problems[other]) != _numbers(self._problems[number]):
                    continue
                shingles = shingles or self._shingles(number)
                theirs = self._shingles(other)
                common = len(shingles & theirs)
                if common >= NEAR_SIMILARITY * (len(shingles) + len(theirs) - common):
                    return other
        return None

    def add(self, number: int) -> None:
        """Remember a prompt."""
        for key in self._keys.get(number, ()):
            self._bands.setdefault(key, []).append(number)

    def _shingles(self, number: int) -> set[tuple[str, ...]]:
        return ngrams(words(self._problems[number].prompt), _SHINGLE)


def _numbers(problem: Problem) -> list[str]:
    return sorted(_NUMBER.findall(problem.prompt))


def _shingle_hashes(texts: Sequence[Sequence[str]]) -> tuple[Keys, Places]:
    """A hash of every shingle of every text, and where each text's hashes begin. Every process computes them alike."""
    hashed = np.fromiter(map(_hash64, itertools.chain.from_iterable(texts)), dtype=np.uint64)
    ends = np.cumsum([len(text) for text in texts])
    runs = hashed[: 1 - _SHINGLE].copy()
    for behind in range(1, _SHINGLE):
        runs = _mix(runs) + hashed[behind : len(hashed) - _SHINGLE + 1 + behind]
    inside = np.ones(len(runs), dtype=bool)
    """Not from the last words of one text into the next."""
    for last in range(1, _SHINGLE):
        inside[ends[:-1] - last] = False
    starts = np.concatenate(([0], ends[:-1])) - (_SHINGLE - 1) * np.arange(len(texts))
    return _mix(runs[inside]), starts


@lru_cache(maxsize=1 << 16)
def _hash64(text: str) -> int:
    """Of a word, which comes again, or of a problem's numbers."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _is_among(keys: Keys, ordered: Keys) -> npt.NDArray[np.bool_]:
    """Which keys `ordered` has. (numpy's isin would sort it anew for every batch: quadratic in the number of problems.)"""
    places = np.searchsorted(ordered, keys)
    inside = places < len(ordered)
    inside[inside] = ordered[places[inside]] == keys[inside]
    return inside


def _mix(values: Keys) -> Keys:
    """SplitMix64's finaliser: every bit of a value moves about half of the result's (Steele 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
