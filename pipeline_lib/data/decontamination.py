"""Keep benchmark questions out of everything that is trained on (v2 D.1: no 10-gram in common).

A text overlaps when it shares a run of n words with a benchmark's prompt or reference solution. A prompt of fewer
than n words has no such run: it overlaps when its words are exactly those of a benchmark prompt. References of
fewer than n words are not compared: `def f(x): return x + 1` solves many problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from pipeline_lib.data.words import ngrams, words
from pipeline_lib.types import Problem

DEFAULT_N = 10


@dataclass(frozen=True, slots=True)
class Overlap:
    """A text that a benchmark also holds."""

    id: str
    benchmark_id: str
    shared: str
    """The words in common."""


class BenchmarkIndex:
    """What the benchmarks say, ready to be asked. Build it once over every split of every suite."""

    def __init__(self, benchmarks: Iterable[Problem], n: int = DEFAULT_N) -> None:
        self.n = n
        self._runs: dict[tuple[str, ...], str] = {}
        self._whole: dict[tuple[str, ...], str] = {}
        self._piece = min(3, n)
        self._pieces: set[tuple[str, ...]] = set()
        """Every run of so many words: where a text has one that no benchmark has, no run of n words around it is shared."""
        for problem in benchmarks:
            prompt = words(problem.prompt)
            self._whole.setdefault(prompt, problem.id)
            for text in (prompt, words(problem.reference or "")):
                for run in ngrams(text, n):
                    self._runs.setdefault(run, problem.id)
                self._pieces |= ngrams(text, self._piece)

    def find(self, identity: str, prompt: str, *others: str) -> Overlap | None:
        """The first overlap of a prompt, or of the texts that go with it (reference, response); None when clean."""
        sequence = words(prompt)
        if (owner := self._whole.get(sequence)) is not None:
            return Overlap(identity, owner, " ".join(sequence))
        for text in (sequence, *(words(other) for other in others)):
            start = 0
            while (end := start + self.n) <= len(text):
                if text[end - self._piece : end] not in self._pieces:
                    start = end - self._piece + 1
                    continue
                if (owner := self._runs.get(text[start:end])) is not None:
                    return Overlap(identity, owner, " ".join(text[start:end]))
                start += 1
        return None


def decontaminate(problems: Sequence[Problem], index: BenchmarkIndex) -> tuple[list[Problem], list[Overlap]]:
    """The problems whose prompt and reference overlap with no benchmark, in order, and what was dropped."""
    kept: list[Problem] = []
    dropped: list[Overlap] = []
    for problem in tqdm(problems, "decontaminate", unit="problem", delay=5.0, mininterval=2):
        overlap = index.find(problem.id, problem.prompt, problem.reference or "")
        if overlap is None:
            kept.append(problem)
        else:
            dropped.append(overlap)
    return kept, dropped
