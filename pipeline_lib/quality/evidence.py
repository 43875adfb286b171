"""What a row is judged by, computed in plain code; the expectations only look at the result.

A computed column is None where the question does not arise (a general prompt has no tests) or was not asked (a
sample is verified again, not all rows): Great Expectations leaves None out. Nothing here raises for a bad row; a
bad row gets a value that its expectation refuses.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_lib.data.decontamination import BenchmarkIndex
from pipeline_lib.rewards.behaviour import language_share, repetition_share
from pipeline_lib.rewards.combine import Scorer
from pipeline_lib.rewards.numbers import parse_number
from pipeline_lib.rewards.response import ANSWER, END_ANSWER, END_THINK, THINK, is_well_formed, thought_of
from pipeline_lib.types import Domain, Outcome, Problem

Row = dict[str, Any]

_NUMERIC_MAJORITY = 0.9
"""From this share of numbers on, a source's math answers are all expected to be numbers."""
_SEED = 0
"""Which rows are verified again must not change between two runs of the same data."""


def problem_evidence(
    rows: Sequence[Row], *, language: str, index: BenchmarkIndex | None, reverify: int
) -> None:
    """Add to each row of a problem set: answer_form, answer_parses, reference_verdict, failed_test, benchmark_overlap,
    target_language_share, prompt_chars, domain_share.

    Args:
        rows: Columns of the problem layout; changed in place.
        language: Target language of prompts.
        index: The benchmarks; None for a benchmark itself.
        reverify: At most so many ground truths and so many reference solutions are run.
    """
    shares = _shares(rows, "domain")
    numeric_sources = _numeric_sources(rows)
    for row in rows:
        form = _answer_form(row)
        row["answer_form"] = (
            f"{form}, where {row['source']} gives numbers"
            if form in ("text", "math") and (row["source"], row["category"]) in numeric_sources
            else form
        )
        row["prompt_chars"] = len(_text(row, "prompt"))
        row["target_language_share"] = language_share(_text(row, "prompt"), language)
        row["domain_share"] = shares[row["domain"]]
        row["benchmark_overlap"] = _overlap(row, index)
        row["answer_parses"] = row["reference_verdict"] = row["failed_test"] = None
    with Scorer() as scorer:
        _judge_truths(scorer, _draw([row for row in rows if _has_truth(row)], reverify))
        _judge_references(scorer, _draw([row for row in rows if _has_program(row)], reverify))
    for row in rows:
        if row["domain"] == Domain.CODE and not _has_program(row):
            row["reference_verdict"] = "no tests, entry point or reference solution to run"


def sample_evidence(
    rows: Sequence[Row],
    *,
    problems: Mapping[str, Problem],
    language: str,
    index: BenchmarkIndex,
    reverify: int,
) -> None:
    """Add to each row of SFT data: prompt_matches, well_formed, reverified, repetition, response_chars,
    target_language_share, benchmark_overlap, domain_share.

    Args:
        rows: Columns of the sample layout; changed in place.
        problems: Problem id -> problem, of every set the samples may answer.
        language: Target language of the reasoning.
        index: The benchmarks.
        reverify: At most so many verdicts are computed again.
    """
    shares = _shares(rows, "domain")
    for row in rows:
        response = _text(row, "response")
        problem = problems.get(row["problem_id"])
        row["prompt_matches"] = problem is not None and problem.prompt == row["prompt"]
        row["well_formed"] = is_well_formed(response)
        row["repetition"] = round(repetition_share(response), 4)
        row["response_chars"] = len(response)
        row["target_language_share"] = round(language_share(thought_of(response), language), 4)
        row["benchmark_overlap"] = _overlap(row, index)
        row["domain_share"] = shares[row["domain"]]
        row["reverified"] = None
    known = _draw([row for row in rows if row["problem_id"] in problems], reverify)
    with Scorer() as scorer:
        outcomes = _verify(
            scorer, [problems[row["problem_id"]] for row in known], [_text(row, "response") for row in known]
        )
    for row, (outcome, _) in zip(known, outcomes, strict=True):
        row["reverified"] = outcome


def preference_evidence(rows: Sequence[Row], *, language: str, index: BenchmarkIndex) -> None:
    """Add to each pair: differ, contradicts, target_language_share, response_chars, benchmark_overlap, class_share."""
    shares = _shares(rows, "category")
    judged = {(row["prompt"], row["chosen"], row["rejected"]): row["id"] for row in rows}
    for row in rows:
        chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
        row["differ"] = chosen.strip() != rejected.strip()
        row["contradicts"] = (
            judged.get((row["prompt"], row["rejected"], row["chosen"])) if row["differ"] else None
        )
        row["target_language_share"] = round(language_share(chosen, language), 4)
        row["response_chars"] = max(len(chosen), len(rejected))
        row["benchmark_overlap"] = _overlap(row, index)
        row["class_share"] = shares[row["category"]]


def safety_evidence(rows: Sequence[Row], *, index: BenchmarkIndex) -> None:
    """Add to each example: contradicts, response_chars, benchmark_overlap, class_share (of safe or unsafe)."""
    shares = _shares(rows, "safe")
    judged = {(row["prompt"], row["response"], row["safe"]): row["id"] for row in rows}
    for row in rows:
        row["contradicts"] = None
        if isinstance(row["safe"], bool):
            row["contradicts"] = judged.get((row["prompt"], row["response"], not row["safe"]))
        row["response_chars"] = len(_text(row, "response"))
        row["benchmark_overlap"] = _overlap(row, index)
        row["class_share"] = shares[row["safe"]]


def _text(row: Row, name: str) -> str:
    return row[name] if isinstance(row[name], str) else ""


def _shares(rows: Sequence[Row], column: str) -> dict[Any, float]:
    """Value -> the share of rows that have it."""
    return {value: count / len(rows) for value, count in Counter(row[column] for row in rows).items()}


def _overlap(row: Row, index: BenchmarkIndex | None) -> str | None:
    """Which benchmark question the row holds, and the words in common."""
    if index is None:
        return None
    found = index.find(str(row["id"]), _text(row, "prompt"), row.get("reference") or "")
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


def _numeric_sources(rows: Sequence[Row]) -> set[tuple[Any, Any]]:
    """(source, category) whose math answers are numbers, all but a few."""
    forms: dict[tuple[Any, Any], list[bool]] = {}
    for row in rows:
        if row["domain"] == Domain.MATH:
            forms.setdefault((row["source"], row["category"]), []).append(_answer_form(row) == "number")
    return {key for key, numbers in forms.items() if sum(numbers) >= _NUMERIC_MAJORITY * len(numbers)}


def _has_truth(row: Row) -> bool:
    return row["domain"] in (Domain.MATH, Domain.GENERAL) and bool(_text(row, "answer").strip())


def _has_program(row: Row) -> bool:
    tests = row["tests"]
    return bool(
        row["domain"] == Domain.CODE
        and isinstance(tests, list)
        and tests
        and _text(row, "entry_point").strip()
        and _text(row, "reference").strip()
    )


def _draw(rows: Sequence[Row], count: int) -> list[Row]:
    """All rows, or `count` of them, in order and the same every time."""
    if len(rows) <= count:
        return list(rows)
    return [rows[index] for index in sorted(random.Random(_SEED).sample(range(len(rows)), count))]


def _judge_truths(scorer: Scorer, rows: Sequence[Row]) -> None:
    """An answer parses when our own verifier accepts it as the answer to its own problem."""
    verdicts = _verify(scorer, [_problem(row) for row in rows], [_as_response(row["answer"]) for row in rows])
    for row, (outcome, detail) in zip(rows, verdicts, strict=True):
        row["answer_parses"] = None if outcome is None else outcome == Outcome.CORRECT
        row["failed_test"] = detail or None


def _judge_references(scorer: Scorer, rows: Sequence[Row]) -> None:
    """The reference solution must pass its own tests in the sandbox."""
    verdicts = _verify(
        scorer, [_problem(row) for row in rows], [_as_response(row["reference"]) for row in rows]
    )
    for row, (outcome, detail) in zip(rows, verdicts, strict=True):
        row["reference_verdict"] = outcome
        row["failed_test"] = detail or None


def _problem(row: Row) -> Problem:
    """The row as the verifier wants it; whatever else is wrong with it is another expectation's business."""
    return Problem(
        id=str(row["number"]),
        domain=Domain(row["domain"]),
        prompt=_text(row, "prompt"),
        answer=row["answer"],
        tests=tuple(str(test) for test in row["tests"] or ()),
        entry_point=row["entry_point"],
    )


def _as_response(answer: str) -> str:
    return f"{THINK}{END_THINK}{ANSWER}{answer}{END_ANSWER}"


def _verify(
    scorer: Scorer, problems: Sequence[Problem], responses: Sequence[str]
) -> list[tuple[str | None, str]]:
    """(outcome, failed test or detail) of each response.

    A timeout is our machine's fault and not the row's: such a row is judged once more, and then counts as not asked.
    """
    verdicts = scorer.verify_batch(problems, responses)
    late = [place for place, verdict in enumerate(verdicts) if verdict.outcome is Outcome.TIMEOUT]
    if late:
        again = scorer.verify_batch([problems[place] for place in late], [responses[place] for place in late])
        for place, verdict in zip(late, again, strict=True):
            verdicts[place] = verdict
    return [
        (
            None if verdict.outcome is Outcome.TIMEOUT else str(verdict.outcome),
            ""
            if verdict.outcome in (Outcome.CORRECT, Outcome.TIMEOUT)
            else verdict.failed_test or verdict.detail,
        )
        for verdict in verdicts
    ]
