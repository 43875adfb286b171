"""What is kept of a model's samples, and what is dropped and why."""

from __future__ import annotations

import pytest

from pipeline_lib.data.schema import SftSample
from pipeline_lib.errors import DataError
from pipeline_lib.params.data import SamplingSection
from pipeline_lib.rejection_sampling import (
    draw_problems,
    fault_of,
    merge,
    polish,
    prefer_verification,
    reference_samples,
    sample_of,
    select,
)
from pipeline_lib.sample_journal import Judged
from pipeline_lib.types import Domain, Outcome, Problem

SECTION = SamplingSection(
    samples=4, problems=10, keep_per_problem=2, max_new_tokens=64, max_repetition=0.3, min_language_share=1.0
)
GOOD = "<think>so 4-2=2 then 2+5=0</think><answer>0</answer>"


def problem(name: str = "p1") -> Problem:
    return Problem(id=name, domain=Domain.MATH, prompt="4 a-2 b+5", answer="0")


def judged(
    text: str, outcome: Outcome = Outcome.CORRECT, *, finished: bool = True, name: str = "p1"
) -> Judged:
    return Judged(problem(name), text, finished, outcome)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (judged(GOOD), None),
        (judged(GOOD, Outcome.WRONG), "wrong"),
        (judged(GOOD, Outcome.TIMEOUT), "timeout"),
        (judged(GOOD, finished=False), "unfinished"),
        (judged("<think>so 4-2=2 得 2+5=0</think><answer>0</answer>"), "language"),
        (judged("<think>so ```4-2=2```</think><answer>0</answer>"), "code_block_in_thought"),
        (judged("<think>" + "so we get two then " * 20 + "</think><answer>0</answer>"), "repetition"),
    ],
)
def test_faults(row: Judged, fault: str | None) -> None:
    assert fault_of(row, SECTION, "en") == fault


def test_at_most_keep_per_problem_and_no_twins() -> None:
    rows = [
        judged(GOOD),
        judged(GOOD),
        judged(GOOD.replace("so", "then")),
        judged(GOOD.replace("so", "thus")),
    ]
    selection = select(rows, SECTION, target_language="en", source="m", polish_format=False)
    assert [s.id for s in selection.samples] == ["p1-0", "p1-1"]
    assert selection.dropped == {"surplus": 2}
    assert selection.metrics()["kept_share"] == 0.5


def test_without_polish_another_format_is_dropped() -> None:
    rows = [judged("so 4-2=2<answer>0</answer>")]
    assert select(rows, SECTION, target_language="en", source="m", polish_format=False).dropped == {
        "format": 1
    }
    kept = select(rows, SECTION, target_language="en", source="m", polish_format=True).samples
    assert [s.response for s in kept] == ["<think>so 4-2=2</think><answer>0</answer>"]


@pytest.mark.parametrize("text", ["0", "<think>x</think>", "<answer>1</answer><answer>2</answer>"])
def test_polish_invents_no_answer(text: str) -> None:
    assert polish(text) is None


def test_polish_keeps_what_is_in_the_format() -> None:
    assert polish(GOOD + "\n") == GOOD


def test_chains_that_check_themselves_are_preferred_up_to_the_share() -> None:
    plain = [sample_of(problem(f"a{i}"), GOOD, 0, "en", "m") for i in range(10)]
    checked = [
        sample_of(problem(f"b{i}"), GOOD.replace("so", "let me check"), 0, "en", "m") for i in range(10)
    ]
    chosen = prefer_verification([*plain, *checked], 0.75, 8, seed=1)
    assert sum("check" in s.response for s in chosen) == 6
    assert len(chosen) == 8
    assert len(prefer_verification([*plain, *checked], 0.9, 100, seed=1)) == 20


def test_reference_replies_are_in_the_format() -> None:
    rows = reference_samples(
        [problem(), Problem(id="q", domain=Domain.GENERAL, prompt="say x")], "general", "en"
    )
    assert [row.response for row in rows] == ["<think></think><answer>0</answer>"]


def test_an_empty_problem_set_is_named() -> None:
    with pytest.raises(DataError, match="empty"):
        draw_problems([], 3, seed=0)


def test_drawing_is_repeatable_and_bounded() -> None:
    problems = [problem(f"p{i}") for i in range(20)]
    assert draw_problems(problems, 5, 3) == draw_problems(problems, 5, 3)
    assert len(draw_problems(problems, 50, 3)) == 20


def test_merge_keeps_each_response_once_and_numbers_a_problems_samples_through() -> None:
    def row(name: str, response: str, index: int, source: str) -> SftSample:
        return sample_of(problem(name), response, index, "en", source)

    other = GOOD.replace("so", "then")
    merged = merge(
        [row("p1", GOOD, 0, "r1"), row("p1", other, 1, "r1"), row("p2", GOOD, 0, "r1")],
        [row("p1", other, 0, "rl"), row("p1", GOOD + " ", 1, "rl"), row("p3", GOOD, 0, "rl")],
    )
    assert [(s.id, s.response, s.source) for s in merged] == [
        ("p1-0", GOOD, "r1"),
        ("p1-1", other, "r1"),
        ("p2-0", GOOD, "r1"),
        ("p1-2", GOOD + " ", "rl"),
        ("p3-0", GOOD, "rl"),
    ]
