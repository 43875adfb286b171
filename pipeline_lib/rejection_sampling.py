"""Sample a model, judge every response, keep what is correct and readable.

Cold-start data (v2 B.3.2), the stage-3 data (v1 §2.3.3) and distillation data are the same act with other
models and bounds: sample at T=1, keep correct answers, drop mixed languages, repetition and unfinished
chains. What is dropped is counted by reason, because a stage that drops nearly everything is a finding.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
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
from pipeline_lib.sample_journal import Judged, SampleJournal
from pipeline_lib.seeds import derive_seed
from pipeline_lib.types import Domain, Outcome, Problem, SamplingParams

if TYPE_CHECKING:
    from tqdm import tqdm
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.params.data import SamplingSection
    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.rollout import Generator
    from pipeline_lib.rollout.protocol import ProgressCallback

CODE = ("rejection_sampling.py", "rollout", "rewards", "sandbox", "modeling.py", "types.py")
"""What decides a sample's bytes, below pipeline_lib/."""
ROWS_AT_ONCE = 512
"""Responses of a batch: bounds memory, and what a kill costs. Changing it changes what is sampled."""


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


def batch_count(problems: int, samples: int) -> int:
    """Batches that so many problems with so many samples each make."""
    return -(-problems // _problems_at_once(samples))


def sampling_key(problems: Sequence[Problem], sampling: SamplingParams, *more: object) -> str:
    """16 hex digits that name a sampling: the problems, how they are sampled, and what else decides it."""
    digest = hashlib.sha256(json.dumps([*more, asdict(sampling), ROWS_AT_ONCE], sort_keys=True).encode())
    for problem in problems:
        digest.update(json.dumps(asdict(problem)).encode())
    return digest.hexdigest()[:16]


def _problems_at_once(samples: int) -> int:
    return max(1, ROWS_AT_ONCE // samples)


def sample_missing(
    journal: SampleJournal,
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    scorer: Scorer,
    problems: Sequence[Problem],
    sampling: SamplingParams,
    *,
    seed: int,
    title: str,
) -> None:
    """Sample and judge, batch by batch, what `journal` does not hold yet, with a progress bar on stderr.

    A batch is a function of (seed, problems, its place among them), so one that is sampled after a restart is the one that
    would have been sampled without.
    """
    from tqdm import tqdm

    at_once = _problems_at_once(sampling.n)
    held = min(journal.batches * at_once, len(problems))
    if held:
        print(f"{title}: goes on behind {held} of {len(problems)} problems", file=sys.stderr)
    total, initial = len(problems) * sampling.n, held * sampling.n
    with tqdm(total=total, initial=initial, desc=title, unit="sample", mininterval=2) as bar:
        for start in range(held, len(problems), at_once):
            batch = problems[start : start + at_once]
            groups = generator.generate(
                [render_prompt(tokenizer, problem.prompt) for problem in batch],
                [problem.id for problem in batch],
                sampling,
                seed=derive_seed(seed, start),
                on_progress=_moves(bar),
            )
            rows = [(problem, row) for problem, group in zip(batch, groups, strict=True) for row in group]
            verdicts = scorer.verify_batch([problem for problem, _ in rows], [row.text for _, row in rows])
            journal.append(
                [
                    Judged(problem, row.text, row.finished, verdict.outcome)
                    for (problem, row), verdict in zip(rows, verdicts, strict=True)
                ]
            )


def _moves(bar: tqdm) -> ProgressCallback:
    """A callback that moves `bar` from where it stands now to (finished samples of this call) further."""
    start = bar.n

    def move(done: int, _total: int) -> None:
        bar.update(start + done - bar.n)

    return move


def fault_of(judged: Judged, section: SamplingSection, target_language: str) -> str | None:
    """Why a response is not fit to learn from, or None."""
    text = judged.text
    if judged.outcome is not Outcome.CORRECT:
        return str(judged.outcome)
    if not judged.finished:
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
    judged: Iterable[Judged],
    section: SamplingSection,
    *,
    target_language: str,
    source: str,
    polish_format: bool,
) -> Selection:
    """Keep at most `keep_per_problem` distinct good responses of each problem, in the order sampled.

    Memory is that of what is kept: `judged` may be read from the disk.
    """
    sampled = 0
    dropped: Counter[str] = Counter()
    kept: dict[str, list[str]] = {}
    samples: list[SftSample] = []
    for row in judged:
        sampled += 1
        fault = fault_of(row, section, target_language)
        response = None
        if fault is None:
            response = polish(row.text) if polish_format else row.text.strip()
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
    return Selection(tuple(samples), sampled, dict(dropped))


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
