"""What a row is judged by. Great Expectations is not needed to know it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_lib.data.decontamination import BenchmarkIndex
from pipeline_lib.quality.evidence import (
    Evidence,
    PreferenceEvidence,
    ProblemEvidence,
    SafetyEvidence,
    SampleEvidence,
)
from pipeline_lib.types import Domain, Problem

INDEX = BenchmarkIndex([Problem("bench", Domain.MATH, "held out question", answer="1")])


def _row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"p{number}",
        "domain": "math",
        "prompt": f"what is {number}",
        "answer": str(number),
        "tests": [],
        "entry_point": None,
        "reference": None,
        "category": "c",
        "source": "s",
    }
    return {**row, **changes}


def _judge(evidence: Evidence, rows: list[dict[str, Any]], at_once: int = 7) -> list[dict[str, Any]]:
    """All rows, numbered from 0, a few at a time, as a gate does."""
    for number, row in enumerate(rows):
        row["number"] = number
    parts = [rows[first : first + at_once] for first in range(0, len(rows), at_once)]
    for part in parts:
        evidence.survey(part)
    evidence.verify(lambda numbers: [rows[number] for number in numbers])
    for part in parts:
        evidence.judge(part)
    return rows


def _judged(rows: list[dict[str, Any]], reverify: int = 100) -> list[dict[str, Any]]:
    return _judge(ProblemEvidence(language="en", index=INDEX, reverify=reverify), rows)


def test_a_good_problem_has_nothing_against_it() -> None:
    row = _judged([_row(1)])[0]
    assert (row["answer_form"], row["answer_parses"], row["benchmark_overlap"]) == ("number", True, None)
    assert (row["target_language_share"], row["domain_share"], row["prompt_chars"]) == (1.0, 1.0, 9)
    assert row["reference_verdict"] is None


def test_a_word_where_a_source_gives_numbers_is_said_so() -> None:
    rows = _judged([_row(n) for n in range(20)] + [_row(20, answer="many")])
    assert rows[20]["answer_form"] == "text, where s gives numbers"
    assert rows[0]["answer_form"] == "number"


def test_a_source_of_words_may_give_words() -> None:
    rows = _judged([_row(n, answer=answer) for n, answer in enumerate(["yes", "no", "Evelyn", "7"])])
    assert [row["answer_form"] for row in rows] == ["text", "text", "text", "number"]


def test_mathematics_is_parsed_by_the_real_verifier() -> None:
    rows = _judged(
        [_row(0, answer=r"\frac{x+1}{2}", source="algebra"), _row(1, answer="\\frac{", source="algebra")]
    )
    assert rows[0]["answer_parses"] is True
    assert rows[1]["answer_form"] == "math"


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "correct"),
        ({"reference": "def f(x):\n return x"}, "wrong"),
        ({"tests": ["assert f("]}, "verifier_error"),
        ({"tests": []}, "no tests, entry point or reference solution to run"),
        ({"reference": None}, "no tests, entry point or reference solution to run"),
    ],
)
def test_a_reference_is_run_in_the_sandbox(changes: dict[str, Any], verdict: str) -> None:
    code = {"domain": "code", "answer": None, "tests": ["assert f(1) == 2"], "entry_point": "f"}
    row = _row(1, **{**code, "reference": "def f(x):\n return 2 * x", **changes})
    assert _judged([row])[0]["reference_verdict"] == verdict


def test_a_sample_is_asked_and_the_rest_is_left_out() -> None:
    rows = _judged([_row(n) for n in range(50)], reverify=10)
    assert sum(row["answer_parses"] is True for row in rows) == 10
    assert sum(row["answer_parses"] is None for row in rows) == 40


def test_a_row_of_nulls_raises_nothing() -> None:
    nothing = dict.fromkeys(_row(0))
    row = _judged([_row(0), nothing])[1]
    assert row["prompt_chars"] == 0


def test_samples_are_verified_against_their_problem() -> None:
    problems = {"p1": Problem("p1", Domain.MATH, "what is 1", answer="1")}

    def sample(number: int, answer: str, **changes: Any) -> dict[str, Any]:
        response = f"<think>so it is</think><answer>{answer}</answer>"
        row = {
            "number": number,
            "id": str(number),
            "problem_id": "p1",
            "domain": "math",
            "prompt": "what is 1",
        }
        return {**row, "response": response, **changes}

    rows = [
        sample(0, "1"),
        sample(1, "2"),
        sample(2, "1", problem_id="p9"),
        sample(3, "1", prompt="held out question"),
    ]
    _judge(SampleEvidence(problems=problems, language="en", index=INDEX, reverify=100), rows)
    assert [row["reverified"] for row in rows] == ["correct", "wrong", None, "correct"]
    assert [row["prompt_matches"] for row in rows] == [True, True, False, False]
    assert rows[3]["benchmark_overlap"] == "bench: held out question"
    assert all(row["well_formed"] for row in rows)


def test_contradictions_name_each_other() -> None:
    def pair(identity: str, chosen: str, rejected: str) -> dict[str, Any]:
        return {"id": identity, "prompt": "q", "chosen": chosen, "rejected": rejected, "category": "c"}

    rows = [
        pair("a", "yes", "no"),
        pair("b", "no", "yes"),
        pair("c", "yes", "perhaps"),
        pair("d", "same", "same"),
    ]
    _judge(PreferenceEvidence(language="en", index=INDEX), rows)
    assert [row["contradicts"] for row in rows] == ["b", "a", None, None]
    assert [row["differ"] for row in rows] == [True, True, True, False]

    examples = [
        {"id": name, "prompt": "q", "response": "r", "safe": safe}
        for name, safe in (("a", True), ("b", False))
    ]
    _judge(SafetyEvidence(index=INDEX), examples)
    assert [row["contradicts"] for row in examples] == ["b", "a"]
    assert [row["class_share"] for row in examples] == [0.5, 0.5]
