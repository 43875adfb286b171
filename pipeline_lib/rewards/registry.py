"""The parts of a reward, found by looking: a module of this package with a `REWARD` is one, and adding the file is enough."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from pipeline_lib.types import Completion, Problem, Verdict


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """What a stage decides about scoring."""

    language: str = "en"
    """Target language of the chain of thought."""
    max_new_tokens: int = 0
    """The response limit, for the overlong part; 0: no limit known, no penalty."""
    overlong_buffer: int = 0
    """Tokens before the limit in which the overlong penalty grows (DAPO eq.13)."""
    repetition_ngram: int = 8
    """Words (or Han characters) in a repeated phrase."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One judged response, as a reward part sees it."""

    problem: Problem
    completion: Completion
    response: str
    """The text that is scored: the completion's, with the think tag that the prompt opened, if it did."""
    verdict: Verdict
    settings: ScoreSettings

    @property
    def has_key(self) -> bool:
        """False for a general prompt that only a learned reward can judge."""
        return self.problem.answer is not None or bool(self.problem.tests)


@dataclass(frozen=True, slots=True)
class RewardPart:
    """A named number for a judged response, before its weight."""

    name: str
    score: Callable[[Sample], float]


@cache
def reward_parts() -> Mapping[str, RewardPart]:
    """Every part there is, by name. Raises ValueError when two modules claim one name."""
    package = importlib.import_module("pipeline_lib.rewards")
    found: dict[str, RewardPart] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if info.name.startswith("_"):  # no part, and slow to import
            continue
        part = getattr(importlib.import_module(f"pipeline_lib.rewards.{info.name}"), "REWARD", None)
        if part is None:
            continue
        if part.name in found:
            raise ValueError(f"two reward modules are called {part.name!r}; the second is {info.name}")
        found[part.name] = part
    return found
