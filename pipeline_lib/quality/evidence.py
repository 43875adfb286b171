"""What a row is judged by, computed in plain code; the expectations only look at the result.

A computed column is None where the question does not arise (a general prompt has no tests) or was not asked (a
sample is verified again, not all rows): Great Expectations leaves None out. Nothing here raises for a bad row; a
bad row gets a value that its expectation refuses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pipeline_lib.data.decontamination import BenchmarkIndex
from pipeline_lib.quality.reverify import Row, draw, judge_references, judge_truths, text, verify
from pipeline_lib.rewards.behaviour import language_share, repetition_share
from pipeline_lib.rewards.combine import Scorer
from pipeline_lib.rewards.numbers import parse_number
from pipeline_lib.rewards.response import is_well_formed, thought_of
from pipeline_lib.types import Domain, Problem

Take = Callable[[Sequence[int]], list[Row]]

_NUMERIC_MAJORITY = 0.9
"""From this share of numbers on, a source's math answers are all expected to be numbers."""
_FORMS = (None, "number", "math", "text", "missing")


class Evidence(Protocol):
    """How the rows of one file are judged. A file is gone through twice, some rows at a time, so that memory is that of
    the result and not of the rows: `survey` for what depends on all of them, `judge` for each row itself."""

    def survey(self, rows: Sequence[Row]) -> None:
        """Look at the next rows."""
        ...

    def verify(self, take: Take) -> None:
        """Have the verifier judge a sample of the surveyed rows; `take` fetches rows by their numbers."""
        ...

    def judge(self, rows: Sequence[Row]) -> None:
        """Add the computed columns to rows that were surveyed."""
        ...


class ProblemEvidence:
    """Adds to each row of a problem set: answer_form, answer_parses, reference_verdict, failed_test, benchmark_overlap,
    target_language_share, prompt_chars, domain_share.

    Args:
        language: Target language of prompts.
        index: The benchmarks; None for a benchmark itself.
        reverify: At most so many ground truths and so many reference solutions are run.
    """

    def __init__(self, *, language: str, index: BenchmarkIndex | None, reverify: int) -> None:
        self._language, self._index, self._reverify = language, index, reverify
        self._domains = _Shares()
        self._forms = bytearray()
        """A byte a row: its answer's form in _FORMS, asked for in both passes and dear to find."""
        self._numeric: dict[tuple[Any, Any], list[int]] = {}
        self._truths: list[int] = []
        self._programs: list[int] = []
        self._verified: dict[int, Row] = {}

    def survey(self, rows: Sequence[Row]) -> None:
        """Count domains and forms of answers; note what can be verified."""
        for row in rows:
            form = _answer_form(row)
            self._domains.add(row["domain"])
            self._forms.append(_FORMS.index(form))
            if row["domain"] == Domain.MATH:
                # A source's math answers: [how many are numbers, how many there are].
                numeric = self._numeric.setdefault((row["source"], row["category"]), [0, 0])
                numeric[0] += form == "number"
                numeric[1] += 1
            if _has_truth(row):
                self._truths.append(row["number"])
            if _has_program(row):
                self._programs.append(row["number"])

    def verify(self, take: Take) -> None:
        """Verify ground truths, run reference solutions."""
        with Scorer() as scorer:
            self._verified.update(judge_truths(scorer, take(draw(self._truths, self._reverify))))
            self._verified.update(judge_references(scorer, take(draw(self._programs, self._reverify))))

    def judge(self, rows: Sequence[Row]) -> None:
        """See the class."""
        numeric_sources = {
            key for key, (numbers, count) in self._numeric.items() if numbers >= _NUMERIC_MAJORITY * count
        }
        for row in rows:
            form = _FORMS[self._forms[row["number"]]]
            row["answer_form"] = (
                f"{form}, where {row['source']} gives numbers"
                if form in ("text", "math") and (row["source"], row["category"]) in numeric_sources
                else form
            )
            row["prompt_chars"] = len(text(row, "prompt"))
            row["target_language_share"] = language_share(text(row, "prompt"), self._language)
            row["domain_share"] = self._domains.of(row["domain"])
            row["benchmark_overlap"] = _overlap(row, self._index)
            row["answer_parses"] = row["reference_verdict"] = row["failed_test"] = None
            row.update(self._verified.get(row["number"], {}))
            if row["domain"] == Domain.CODE and not _has_program(row):
                row["reference_verdict"] = "no tests, entry point or reference solution to run"


class SampleEvidence:
    """Adds to each row of SFT data: prompt_matches, well_formed, reverified, repetition, response_chars,
    target_language_share, benchmark_overlap, domain_share.

    Args:
        problems: Problem id -> problem, of every set the samples may answer.
        language: Target language of the reasoning.
        index: The benchmarks.
        reverify: At most so many verdicts are computed again.
    """

    def __init__(
        self, *, problems: Mapping[str, Problem], language: str, index: BenchmarkIndex, reverify: int
    ) -> None:
        self._problems, self._language, self._index, self._reverify = problems, language, index, reverify
        self._domains = _Shares()
        self._known: list[int] = []
        self._verified: dict[int, str | None] = {}

    def survey(self, rows: Sequence[Row]) -> None:
        """Count domains; note which rows answer a known problem."""
        for row in rows:
            self._domains.add(row["domain"])
            if row["problem_id"] in self._problems:
                self._known.append(row["number"])

    def verify(self, take: Take) -> None:
        """Compute verdicts again."""
        known = take(draw(self._known, self._reverify))
        with Scorer() as scorer:
            outcomes = verify(
                scorer,
                [self._problems[row["problem_id"]] for row in known],
                [text(row, "response") for row in known],
            )
        for row, (outcome, _) in zip(known, outcomes, strict=True):
            self._verified[row["number"]] = outcome

    def judge(self, rows: Sequence[Row]) -> None:
        """See the class."""
        for row in rows:
            response = text(row, "response")
            problem = self._problems.get(row["problem_id"])
            row["prompt_matches"] = problem is not None and problem.prompt == row["prompt"]
            row["well_formed"] = is_well_formed(response)
            row["repetition"] = round(repetition_share(response), 4)
            row["response_chars"] = len(response)
            row["target_language_share"] = round(language_share(thought_of(response), self._language), 4)
            row["benchmark_overlap"] = _overlap(row, self._index)
            row["domain_share"] = self._domains.of(row["domain"])
            row["reverified"] = self._verified.get(row["number"])


class PreferenceEvidence:
    """Adds to each pair: differ, contradicts, target_language_share, response_chars, benchmark_overlap, class_share."""

    def __init__(self, *, language: str, index: BenchmarkIndex) -> None:
        self._language, self._index = language, index
        self._categories = _Shares()
        self._judged: dict[tuple[Any, ...], Any] = {}

    def survey(self, rows: Sequence[Row]) -> None:
        """Count categories; remember what was preferred to what."""
        for row in rows:
            self._categories.add(row["category"])
            self._judged[row["prompt"], row["chosen"], row["rejected"]] = row["id"]

    def verify(self, take: Take) -> None:
        """Nothing a verifier could say."""

    def judge(self, rows: Sequence[Row]) -> None:
        """See the class."""
        for row in rows:
            chosen, rejected = text(row, "chosen"), text(row, "rejected")
            row["differ"] = chosen.strip() != rejected.strip()
            opposite = (row["prompt"], row["rejected"], row["chosen"])
            row["contradicts"] = self._judged.get(opposite) if row["differ"] else None
            row["target_language_share"] = round(language_share(chosen, self._language), 4)
            row["response_chars"] = max(len(chosen), len(rejected))
            row["benchmark_overlap"] = _overlap(row, self._index)
            row["class_share"] = self._categories.of(row["category"])


class SafetyEvidence:
    """Adds to each example: contradicts, response_chars, benchmark_overlap, class_share (of safe or unsafe)."""

    def __init__(self, *, index: BenchmarkIndex) -> None:
        self._index = index
        self._classes = _Shares()
        self._judged: dict[tuple[Any, ...], Any] = {}

    def survey(self, rows: Sequence[Row]) -> None:
        """Count both classes; remember what was called safe."""
        for row in rows:
            self._classes.add(row["safe"])
            self._judged[row["prompt"], row["response"], row["safe"]] = row["id"]

    def verify(self, take: Take) -> None:
        """Nothing a verifier could say."""

    def judge(self, rows: Sequence[Row]) -> None:
        """See the class."""
        for row in rows:
            row["contradicts"] = None
            if isinstance(row["safe"], bool):
                row["contradicts"] = self._judged.get((row["prompt"], row["response"], not row["safe"]))
            row["response_chars"] = len(text(row, "response"))
            row["benchmark_overlap"] = _overlap(row, self._index)
            row["class_share"] = self._classes.of(row["safe"])


class _Shares:
    """How many rows have which value."""

    def __init__(self) -> None:
        self._counts: Counter[Any] = Counter()
        self._shares: dict[Any, float] = {}

    def add(self, value: Any) -> None:
        """Count a row."""
        self._counts[value] += 1

    def of(self, value: Any) -> float:
        """The share of rows that have it, once all are counted."""
        if not self._shares:
            total = self._counts.total()
            self._shares = {value: count / total for value, count in self._counts.items()}
        return self._shares[value]


def _overlap(row: Row, index: BenchmarkIndex | None) -> str | None:
    """Which benchmark question the row holds, and the words in common."""
    if index is None:
        return None
    found = index.find(str(row["id"]), text(row, "prompt"), row.get("reference") or "")
    return f"{found.benchmark_id}: {found.shared}" if found else None


def _answer_form(row: Row) -> str | None:
    """number, math, text or missing; None for code, and for a general prompt that only a learned reward can judge."""
    answer = row["answer"]
    if row["domain"] == Domain.CODE or (row["domain"] == Domain.GENERAL and answer is None):
        return None
    if not isinstance(answer, str) or not answer.strip():
        return "missing"
    if row["domain"] == Domain.GENERAL:
        return "text"
    if parse_number(answer) is not None:
        return "number"
    return "math" if any(mark in answer for mark in "\\^=+*/<>()[]{}0123456789") else "text"


def _has_truth(row: Row) -> bool:
    return row["domain"] in (Domain.MATH, Domain.GENERAL) and bool(text(row, "answer").strip())


def _has_program(row: Row) -> bool:
    tests = row["tests"]
    return bool(
        row["domain"] == Domain.CODE
        and isinstance(tests, list)
        and tests
        and text(row, "entry_point").strip()
        and text(row, "reference").strip()
    )
