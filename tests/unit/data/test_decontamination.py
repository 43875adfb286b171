"""No 10-gram in common with a benchmark (v2 D.1), and the rule for prompts too short to hold one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.data.decontamination import BenchmarkIndex, decontaminate
from pipeline_lib.data.words import ngrams, words
from pipeline_lib.types import Domain, Problem

ELEVEN = "one two three four five six seven eight nine ten eleven"


def _problem(prompt: str, reference: str | None = None, identity: str = "p") -> Problem:
    return Problem(identity, Domain.MATH, prompt, answer="1", reference=reference)


def _overlaps(benchmark: Problem, prompt: str, *others: str) -> bool:
    return BenchmarkIndex([benchmark]).find("p", prompt, *others) is not None


@pytest.mark.parametrize(
    ("prompt", "overlaps"),
    [
        (f"before that {ELEVEN} and after", True),
        ("TWO, three; four five six seven (eight) nine ten eleven!", True),
        ("one two three four five six seven eight nine", False),
        ("one two three four five SIX seven eight nine 10 eleven", False),
    ],
)
def test_ten_words_in_a_row_overlap_and_nine_do_not(prompt: str, overlaps: bool) -> None:
    assert _overlaps(_problem(ELEVEN), prompt) is overlaps


def test_a_short_prompt_overlaps_when_all_its_words_are_the_same() -> None:
    assert _overlaps(_problem("What is 3 + 4?"), "what is 3 + 4")
    assert not _overlaps(_problem("What is 3 + 4?"), "what is 3 + 5")
    assert not _overlaps(_problem("What is 3 + 4?"), "tell me what is 3 + 4")


def test_the_reference_counts_on_both_sides() -> None:
    assert _overlaps(_problem("q", ELEVEN), f"so {ELEVEN}")
    assert _overlaps(_problem(ELEVEN), "q2", f"so {ELEVEN}")
    assert not _overlaps(_problem("q", "def f(x): return x"), "q2", "def f(x): return x")


def test_han_characters_are_words() -> None:
    assert words("法国的首都是哪里？") == tuple("法国的首都是哪里")
    assert _overlaps(_problem("请告诉我法国的首都是哪里"), "你好，请告诉我法国的首都是哪里好吗")


def test_what_was_dropped_is_said() -> None:
    kept, dropped = decontaminate(
        [_problem("mine", identity="a"), _problem(ELEVEN, identity="b")],
        BenchmarkIndex([_problem(ELEVEN, identity="bench")]),
    )
    assert [problem.id for problem in kept] == ["a"]
    assert [(overlap.id, overlap.benchmark_id) for overlap in dropped] == [("b", "bench")]
    assert dropped[0].shared.split() == ELEVEN.split()[:10] or len(dropped[0].shared.split()) == 11


def test_n_is_a_parameter() -> None:
    index = BenchmarkIndex([_problem(ELEVEN)], n=3)
    assert index.find("p", "x two three four y") is not None


_TEXTS = st.lists(st.sampled_from("abc"), max_size=24).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(_TEXTS, max_size=4), _TEXTS, st.integers(1, 6))
def test_what_is_jumped_over_holds_nothing(benchmarks: list[str], text: str, n: int) -> None:
    """The look steps behind words that no benchmark has together; the plain one compares every run."""
    found = BenchmarkIndex([_problem(prompt) for prompt in benchmarks], n=n).find("p", text)
    plain = any(
        words(text) == words(prompt) or ngrams(words(text), n) & ngrams(words(prompt), n)
        for prompt in benchmarks
    )
    assert (found is not None) == plain
    if found:
        assert found.shared in " ".join(words(text))
