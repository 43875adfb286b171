"""Sources in, clean and disjoint data sets out: the work of `prepare_problems`.

Benchmarks are loaded first, because everything else is measured against them. Then each set is deduplicated and
decontaminated; ids must be unique over all sets, and no prompt may be in both a training set and a benchmark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline_lib.data.decontamination import BenchmarkIndex, decontaminate
from pipeline_lib.data.dedup import count_kinds, deduplicate
from pipeline_lib.data.identity import content_id
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.data.sources import load_preferences, load_problems, load_safety
from pipeline_lib.errors import DataError
from pipeline_lib.params import PrepareProblemsParams, SourceSpec
from pipeline_lib.types import Problem, Split

Record = TypeVar("Record", PreferencePair, SafetyExample)


@dataclass(frozen=True, slots=True)
class DataSets:
    """Everything that `prepare_problems` writes."""

    train: list[Problem]
    general: list[Problem]
    preferences: list[PreferencePair]
    safety: list[SafetyExample]
    benchmarks: dict[str, list[Problem]]
    """Suite -> its held-out problems."""
    counts: dict[str, float]
    """What was loaded, dropped and kept, for the metrics file."""


def assemble(params: PrepareProblemsParams, suites: Mapping[str, SourceSpec], *, seed: int) -> DataSets:
    """Load every source and suite and clean them.

    Args:
        params: The `prepare_problems` section.
        suites: Benchmark suite -> where its problems come from.
        seed: Source i draws with seed + i, so that two sources of one kind do not repeat each other.

    Raises:
        ConfigError: An unknown source or option.
        DataError: A source cannot be read, two different problems share an id, or a set ends up empty.
        StorageError: S3 or a hub cannot be reached.
    """
    counts: dict[str, float] = {}
    # A suite's questions do not follow the run's seed: every run and every model is asked the same ones.
    benchmarks = {name: _heldout(load_problems(spec, seed=0)) for name, spec in sorted(suites.items())}
    index = BenchmarkIndex(
        (problem for suite in benchmarks.values() for problem in suite), params.decontamination_ngram
    )
    loaded: dict[str, list[Problem]] = {"train": [], "general": []}
    preferences: list[PreferencePair] = []
    safety: list[SafetyExample] = []
    for number, spec in enumerate(params.sources):
        if spec.role == "preferences":
            preferences += load_preferences(spec, seed=seed + number)
        elif spec.role == "safety":
            safety += load_safety(spec, seed=seed + number)
        else:
            loaded[spec.role] += load_problems(spec, seed=seed + number)
    cleaned = {name: _clean(name, problems, index, counts) for name, problems in loaded.items()}
    sets = DataSets(
        train=cleaned["train"],
        general=cleaned["general"],
        preferences=_clean_records("preferences", preferences, _pair_texts, index, counts),
        safety=_clean_records("safety", safety, _example_texts, index, counts),
        benchmarks=benchmarks,
        counts=counts,
    )
    for name, suite in benchmarks.items():
        counts[f"benchmarks.{name}"] = len(suite)
    _check_ids(sets)
    return sets


def _heldout(problems: Sequence[Problem]) -> list[Problem]:
    """A suite without repeats, in the order of a hash: its first n questions are a fair sample of it."""
    kept, _ = deduplicate([_of(Split.HELDOUT, problem) for problem in problems])
    return sorted(kept, key=lambda problem: content_id("", problem.prompt))


def _of(split: Split, problem: Problem) -> Problem:
    """The problem in `split`: itself where it is, because a large set has no room for two copies."""
    return problem if problem.split is split else replace(problem, split=split)


def _clean(
    name: str, problems: Sequence[Problem], index: BenchmarkIndex, counts: dict[str, float]
) -> list[Problem]:
    """Deduplicate, decontaminate, count."""
    unique, repeats = deduplicate([_of(Split.TRAIN, problem) for problem in problems])
    clean, overlaps = decontaminate(unique, index)
    counts[f"{name}.loaded"] = len(problems)
    counts.update({f"{name}.dropped_{kind}": count for kind, count in count_kinds(repeats).items()})
    counts[f"{name}.dropped_benchmark"] = len(overlaps)
    counts[f"{name}.kept"] = len(clean)
    for domain, count in sorted(Counter(problem.domain for problem in clean).items()):
        counts[f"{name}.kept_{domain}"] = count
    return clean


def _pair_texts(pair: PreferencePair) -> tuple[str, ...]:
    return (pair.prompt, pair.chosen, pair.rejected)


def _example_texts(example: SafetyExample) -> tuple[str, ...]:
    return (example.prompt, example.response)


def _clean_records(
    name: str,
    records: Sequence[Record],
    texts: Callable[[Record], tuple[str, ...]],
    index: BenchmarkIndex,
    counts: dict[str, float],
) -> list[Record]:
    """Drop exact repeats and whatever overlaps with a benchmark; count."""
    first: dict[tuple[str, ...], Record] = {}
    for record in records:
        first.setdefault(texts(record), record)
    unique = list(first.values())
    clean = [record for record in unique if index.find(record.id, *texts(record)) is None]
    counts[f"{name}.loaded"] = len(records)
    counts[f"{name}.dropped_exact"] = len(records) - len(unique)
    counts[f"{name}.dropped_benchmark"] = len(unique) - len(clean)
    counts[f"{name}.kept"] = len(clean)
    return clean


def _check_ids(sets: DataSets) -> None:
    """Raise DataError when two rows share an id: a verdict, a sample and a score would be taken for another's."""
    problem_sets = {"train": sets.train, "general": sets.general}
    problem_sets.update({f"benchmarks/{name}": suite for name, suite in sets.benchmarks.items()})
    owner: dict[str, tuple[str, str]] = {}
    for name, problems in problem_sets.items():
        for problem in problems:
            previous = owner.setdefault(problem.id, (name, problem.prompt))
            # Two suites may share a question, as MATH-500 and MATH do; a training set and a suite may not.
            both_suites = previous[0].startswith("benchmarks/") and name.startswith("benchmarks/")
            if previous != (name, problem.prompt) and not (both_suites and previous[1] == problem.prompt):
                raise DataError(
                    f"data/problems: id {problem.id!r} is in {previous[0]} and in {name}. Ids name one problem each: "
                    "give one of the sources another `source` or drop it."
                )
    for name, ids in (
        ("preferences", [p.id for p in sets.preferences]),
        ("safety", [s.id for s in sets.safety]),
    ):
        twins = [identity for identity, count in Counter(ids).items() if count > 1]
        if twins:
            raise DataError(
                f"data/problems: {name} holds id {twins[0]!r} twice with different texts. Mend the source."
            )
