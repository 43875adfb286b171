"""Ask a model the questions of a suite and count (v2 D.1: T = 0.6, top-p 0.95, pass@1 as the mean over k samples).

What is measured of a response besides its verdict: format (full match of the whole response), languages of the
thought, verification and reflection words, length. All of it is text in, number out, in pipeline_lib.rewards.
A response our verifier could not judge counts as not correct here, and its share is reported.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_lib.errors import DataError
from pipeline_lib.evaluation.report import SuiteReport
from pipeline_lib.evaluation.statistics import Estimate, consensus, estimate, pass_at_1, pass_at_k
from pipeline_lib.evaluation.suites import Suite
from pipeline_lib.modeling import render_prompt
from pipeline_lib.rewards.behaviour import (
    backtracking_share,
    is_mixed,
    language_share,
    reflection_share,
    verification_share,
)
from pipeline_lib.rewards.combine import Scorer
from pipeline_lib.rewards.registry import ScoreSettings
from pipeline_lib.rewards.response import AnswerStyle, is_well_formed, thought_of
from pipeline_lib.seeds import derive_seed
from pipeline_lib.types import Completion, Outcome, Problem, SamplingParams, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.rollout import Generator

BATCH_SAMPLES = 2048
"""Completions sampled between two looks at the verdicts; bounds memory and paces the progress line."""


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One response of a model under evaluation."""

    problem: Problem
    completion: Completion
    verdict: Verdict

    @property
    def is_correct(self) -> bool:
        """True only where the verifier said so."""
        return self.verdict.outcome is Outcome.CORRECT


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are computed."""

    resamples: int = 1000
    confidence: float = 0.95


def choose_problems(problems: Sequence[Problem], suite: Suite, limit: int | None) -> list[Problem]:
    """Return the problems a suite asks: those with a key, `limit` of them at most, in the file's order.

    Which ones depends on the suite alone, so that every model of every run is asked the same. DataError when
    none is left.
    """
    keyed = [problem for problem in problems if problem.answer is not None or problem.tests]
    if not keyed:
        raise DataError(
            f"suite {suite.name}: none of its {len(problems)} problems has an answer or tests to judge by"
        )
    if limit is None or limit >= len(keyed):
        return keyed
    chosen = random.Random(derive_seed(0, suite.name, suite.version)).sample(range(len(keyed)), limit)
    return [keyed[index] for index in sorted(chosen)]


def sample_suite(
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    problems: Sequence[Problem],
    sampling: SamplingParams,
    *,
    seed: int,
    target_language: str = "en",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[list[JudgedSample]]:
    """Sample `sampling.n` responses of every problem and judge them; outer list: problems, inner: samples."""
    style = AnswerStyle(suite.answer_style)
    group = max(1, BATCH_SAMPLES // sampling.n)
    judged: list[list[JudgedSample]] = []
    with Scorer(ScoreSettings(language=target_language), answer_style=style) as scorer:
        for first in range(0, len(problems), group):
            batch = problems[first : first + group]
            groups = generator.generate(
                [render_prompt(tokenizer, problem.prompt) for problem in batch],
                [problem.id for problem in batch],
                sampling,
                seed=derive_seed(seed, "evaluate", suite.name, first),
            )
            owners = [problem for problem, rows in zip(batch, groups, strict=True) for _ in rows]
            verdicts = iter(scorer.verify_batch(owners, [row.text for rows in groups for row in rows]))
            judged += [
                [JudgedSample(problem, row, next(verdicts)) for row in rows]
                for problem, rows in zip(batch, groups, strict=True)
            ]
            if on_progress is not None:
                on_progress(min(first + group, len(problems)), len(problems))
    return judged


def summarise(
    suite: Suite,
    judged: Sequence[Sequence[JudgedSample]],
    sampling: SamplingParams,
    *,
    target_language: str = "en",
    bootstrap: Bootstrap | None = None,
) -> SuiteReport:
    """Turn judged samples into the suite's numbers. Deterministic: the same samples give the same report."""
    settings = bootstrap or Bootstrap()
    k = sampling.n
    flat = [sample for group in judged for sample in group]
    thoughts = [thought_of(sample.completion.text) for sample in flat]
    correct = [sum(sample.is_correct for sample in group) for group in judged]

    def interval(per_problem: Sequence[float]) -> Estimate:
        return estimate(per_problem, resamples=settings.resamples, confidence=settings.confidence)

    agreed = [
        consensus([s.verdict.extracted for s in group], [s.is_correct for s in group]) for group in judged
    ]
    outcomes = Counter(sample.verdict.outcome for sample in flat)
    unjudged = sum(count for outcome, count in outcomes.items() if not outcome.is_signal)
    return SuiteReport(
        suite=suite.name,
        version=suite.version,
        title=suite.title,
        kind=suite.kind,
        problems=len(judged),
        samples=k,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        pass_at_1=interval([pass_at_1(count, k) for count in correct]),
        pass_at_k=interval([pass_at_k(count, k, k) for count in correct]),
        cons_at_k=interval(agreed) if suite.consensus else None,
        format_rate=_share([is_well_formed(sample.completion.text) for sample in flat]),
        finished_rate=_share([sample.completion.finished for sample in flat]),
        language_share=_mean([language_share(thought, target_language) for thought in thoughts]),
        mixing_share=_share([is_mixed(thought) for thought in thoughts]),
        verification_share=_rounded(verification_share(thoughts)),
        reflection_share=_rounded(reflection_share(thoughts)),
        backtracking_share=_rounded(backtracking_share(thoughts)),
        mean_tokens=_mean([len(sample.completion.token_ids) for sample in flat]),
        unjudged_share=_rounded(unjudged / len(flat)),
        outcomes={outcome.value: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        by_category=_by_category(judged, correct, k),
        problem_ids=[group[0].problem.id for group in judged],
        correct_counts=correct,
    )


def _by_category(
    judged: Sequence[Sequence[JudgedSample]], correct: Sequence[int], k: int
) -> dict[str, float]:
    """pass@1 of each kind of problem in the suite."""
    scores: dict[str, list[float]] = {}
    for group, count in zip(judged, correct, strict=True):
        scores.setdefault(group[0].problem.category, []).append(pass_at_1(count, k))
    return {category: _mean(values) for category, values in sorted(scores.items()) if category}


def _share(flags: Sequence[bool]) -> float:
    return _rounded(sum(flags) / len(flags))


def _mean(values: Sequence[float]) -> float:
    return _rounded(sum(values) / len(values))


def _rounded(value: float) -> float:
    return round(float(value), 6)
