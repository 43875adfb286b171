"""Sample a model, judge every response, keep what is correct and readable.

Cold-start data (v2 B.3.2), the stage-3 data (v1 §2.3.3) and distillation data are the same act with other
models and bounds: sample at T=1, keep correct answers, drop mixed languages, repetition and unfinished
chains. What is dropped is counted by reason, because a stage that drops nearly everything is a finding.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline_lib.data.schema import SftSample
from pipeline_lib.errors import DataError
from pipeline_lib.modeling import render_prompt
from pipeline_lib.rewards.behaviour import language_of, language_share, repetition_share, verification_share
from pipeline_lib.rewards.response import (
    ANSWER,
    END_ANSWER,
    END_THINK,
    THINK,
    AnswerExtractor,
    is_well_formed,
    thought_of,
)
from pipeline_lib.seeds import derive_seed
from pipeline_lib.types import Completion, Domain, Outcome, Problem, SamplingParams, Verdict

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.params.data import SamplingSection
    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.rollout import Generator
    from pipeline_lib.rollout.protocol import ProgressCallback

ROWS_AT_ONCE = 512
"""Responses in flight: bounds memory."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A sampled response with its problem and verdict."""

    problem: Problem
    completion: Completion
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Selection:
    """What was kept, and why the rest was not."""

    samples: tuple[SftSample, ...]
    sampled: int
    dropped: dict[str, int]
    """Reason -> count; `surplus` are good samples above the number kept per problem."""

    def metrics(self) -> dict[str, float | dict[str, int]]:
        """Numbers for reports/metrics."""
        kept = len(self.samples)
        return {
            "sampled": self.sampled,
            "kept": kept,
            "kept_share": round(kept / self.sampled, 6) if self.sampled else 0.0,
            "dropped": dict(sorted(self.dropped.items())),
            "verification_share": round(verification_share([s.response for s in self.samples]), 6)
            if kept
            else 0.0,
            "domains": dict(sorted(Counter(str(s.domain) for s in self.samples).items())),
        }


def draw_problems(problems: Sequence[Problem], count: int, seed: int) -> list[Problem]:
    """`count` problems without replacement (all of them, shuffled, when there are fewer)."""
    if not problems:
        raise DataError("no problems to sample from: the problem set is empty; see the stage before this one")
    return random.Random(seed).sample(list(problems), min(count, len(problems)))


def sample_and_judge(
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    problems: Sequence[Problem],
    sampling: SamplingParams,
    *,
    seed: int,
    title: str,
) -> Iterator[Judged]:
    """Every response with its verdict, problem by problem, with a progress bar on stderr."""
    from tqdm import tqdm

    at_once = max(1, ROWS_AT_ONCE // sampling.n)
    with tqdm(total=len(problems) * sampling.n, desc=title, unit="sample", mininterval=2) as bar:
        for start in range(0, len(problems), at_once):
            chunk = problems[start : start + at_once]
            prompts = [render_prompt(tokenizer, problem.prompt) for problem in chunk]
            groups = generator.generate(
                prompts,
                [p.id for p in chunk],
                sampling,
                seed=derive_seed(seed, start),
                on_progress=_moves(bar),
            )
            rows = [
                (problem, completion)
                for problem, group in zip(chunk, groups, strict=True)
                for completion in group
            ]
            verdicts = scorer.verify_batch([p for p, _ in rows], [c.text for _, c in rows])
            for (problem, completion), verdict in zip(rows, verdicts, strict=True):
                yield Judged(problem, completion, verdict)


def _moves(bar: tqdm) -> ProgressCallback:
    """A callback that moves `bar` from where it stands now to (finished samples of this call) further."""
    start = bar.n

    def move(done: int, _total: int) -> None:
        bar.update(start + done - bar.n)

    return move


def fault_of(judged: Judged, section: SamplingSection, target_language: str) -> str | None:
    """Why a response is not fit to learn from, or None."""
    text = judged.completion.text
    if judged.verdict.outcome is not Outcome.CORRECT:
        return str(judged.verdict.outcome)
    if not judged.completion.finished:
        return "unfinished"
    thought = thought_of(text)
    if language_share(thought, target_language) < section.min_language_share:
        return "language"
    if "```" in thought:
        return "code_block_in_thought"
    if repetition_share(text) > section.max_repetition:
        return "repetition"
    return None


def polish(text: str) -> str | None:
    """The response in the exact format, or None where thought and answer cannot be told apart.

    R1 had its cold-start chains rewritten by a model and by people (v2 B.3.2). Here nothing is invented: the
    model's own thought and answer are set into the tags.
    """
    found = AnswerExtractor().extract(text)
    if found.answer is None:
        return None
    if is_well_formed(text):
        return text.strip()
    before = text.split(ANSWER, 1)[0]
    thought = before.replace(THINK, "").replace(END_THINK, "").strip("\n")
    whole = f"{THINK}{thought}{END_THINK}{ANSWER}{found.answer}{END_ANSWER}"
    return whole if is_well_formed(whole) else None


def select(
    judged: Sequence[Judged],
    section: SamplingSection,
    *,
    target_language: str,
    source: str,
    polish_format: bool,
) -> Selection:
    """Keep at most `keep_per_problem` distinct good responses of each problem, in the order sampled."""
    dropped: Counter[str] = Counter()
    kept: dict[str, list[str]] = {}
    samples: list[SftSample] = []
    for row in judged:
        fault = fault_of(row, section, target_language)
        response = None
        if fault is None:
            response = polish(row.completion.text) if polish_format else row.completion.text.strip()
            if response is None or not is_well_formed(response):
                fault = "format"
        if fault is not None or response is None:
            dropped[fault or "format"] += 1
            continue
        mine = kept.setdefault(row.problem.id, [])
        if response in mine or len(mine) >= section.keep_per_problem:
            dropped["surplus"] += 1
            continue
        mine.append(response)
        samples.append(sample_of(row.problem, response, len(mine) - 1, target_language, source))
    return Selection(tuple(samples), len(judged), dict(dropped))


def merge(first: Sequence[SftSample], second: Sequence[SftSample]) -> list[SftSample]:
    """Both sets in order, without what `second` repeats; a problem's samples are numbered through, so ids stay unique."""
    seen: set[tuple[str, str]] = set()
    count: Counter[str] = Counter()
    merged = []
    for sample in (*first, *second):
        key = (sample.problem_id, sample.response)
        if key not in seen:
            seen.add(key)
            merged.append(replace(sample, id=f"{sample.problem_id}-{count[sample.problem_id]}"))
            count[sample.problem_id] += 1
    return merged


def prefer_verification(samples: Sequence[SftSample], share: float, limit: int, seed: int) -> list[SftSample]:
    """At most `limit` samples, of which `share` check themselves where there are enough of them."""
    shuffled = random.Random(seed).sample(list(samples), len(samples))
    checked = [s for s in shuffled if verification_share([s.response]) > 0]
    plain = [s for s in shuffled if verification_share([s.response]) == 0]
    wanted = min(len(checked), round(share * limit))
    chosen = checked[:wanted] + plain[: limit - wanted]
    chosen += checked[wanted : wanted + limit - len(chosen)]
    return sorted(chosen, key=lambda s: s.id)


def reference_samples(problems: Sequence[Problem], source: str, target_language: str) -> list[SftSample]:
    """General prompts with their reference replies, in the format: stage 3's non-reasoning data."""
    return [
        sample_of(p, f"{THINK}{END_THINK}{ANSWER}{p.answer}{END_ANSWER}", 0, target_language, source)
        for p in problems
        if p.answer is not None
    ]


def sample_of(problem: Problem, response: str, index: int, target_language: str, source: str) -> SftSample:
    """A row of an SFT dataset whose verdict is known to be correct."""
    return SftSample(
        id=f"{problem.id}-{index}",
        problem_id=problem.id,
        domain=Domain(problem.domain),
        prompt=problem.prompt,
        response=response,
        verdict=Outcome.CORRECT,
        language=language_of(thought_of(response)) or target_language,
        source=source,
    )
