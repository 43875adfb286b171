"""Repeats are dropped, other problems are not: above all not the same story with other numbers."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.data.dedup import NEAR_SIMILARITY, count_kinds, deduplicate
from pipeline_lib.data.words import ngrams, words
from pipeline_lib.types import Domain, Problem

STORY = (
    "In the old harbour town a baker named {name} fills {a} trays with bread every morning before sunrise and then "
    "carries {b} of them to the market square while the fishermen are still asleep. How many trays are left?"
)


def _problems(*prompts: str) -> list[Problem]:
    return [Problem(str(number), Domain.MATH, prompt, answer="1") for number, prompt in enumerate(prompts)]


def _kinds(*prompts: str) -> list[tuple[str, str, str]]:
    return [(item.id, item.kept_id, item.kind) for item in deduplicate(_problems(*prompts))[1]]


def test_the_first_of_equal_prompts_stays() -> None:
    kept, dropped = deduplicate(_problems("What is 1 + 1?", "What is 2 + 2?", "What is 1 + 1?"))
    assert [problem.id for problem in kept] == ["0", "1"]
    assert [(item.id, item.kept_id, item.kind) for item in dropped] == [("2", "0", "exact")]
    assert count_kinds(dropped) == {"exact": 1, "normalised": 0, "near": 0}


def test_case_punctuation_and_width_do_not_make_a_new_problem() -> None:
    assert _kinds("What is 1 + 1?", "what is  1 + 1", "“What” is １ + 1？") == [
        ("1", "0", "normalised"),
        ("2", "0", "normalised"),
    ]


def test_another_operator_is_another_problem() -> None:
    assert _kinds("4 + 5", "4 * 5", "4 - 5", "-4 + 5") == []


def test_a_reworded_story_is_a_near_duplicate() -> None:
    one = STORY.format(name="Ada", a=12, b=5)
    assert _kinds(one, one.replace("bread", "rolls")) == [("1", "0", "near")]


def test_a_story_with_other_numbers_is_not() -> None:
    assert _kinds(STORY.format(name="Ada", a=12, b=5), STORY.format(name="Ada", a=12, b=6)) == []


def test_short_prompts_are_never_near_duplicates() -> None:
    assert _kinds("what is the capital of France?", "what is the capital of Italy?") == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab .?", max_size=12), max_size=30))
def test_a_second_pass_drops_nothing_and_every_drop_has_a_twin(prompts: list[str]) -> None:
    kept, dropped = deduplicate(_problems(*prompts))
    assert deduplicate(kept) == (kept, [])
    assert len(kept) + len(dropped) == len(prompts)
    by_id = {problem.id: problem for problem in kept}
    for item in dropped:
        assert words(by_id[item.kept_id].prompt) == words(prompts[int(item.id)])


def test_of_many_stories_the_near_ones_are_those_that_comparing_all_pairs_finds() -> None:
    """Stories one word of which was replaced again and again: some are still near the first, some no longer."""
    draw = random.Random(3)
    stories = []
    for family in range(40):
        told = [draw.choice("abcdefghij") * draw.randint(1, 3) + str(family) for _ in range(60)]
        for _ in range(12):
            stories.append(" ".join(told).translate(str.maketrans("0123456789", "qrstuvwxyz")))
            told[draw.randrange(60)] = draw.choice("klmno") * draw.randint(1, 3)
    kept: list[int] = []
    for number, story in enumerate(stories):
        mine = ngrams(words(story), 3)
        others = [ngrams(words(stories[other]), 3) for other in kept]
        if all(len(mine & other) < NEAR_SIMILARITY * len(mine | other) for other in others):
            kept.append(number)
    assert 40 < len(kept) < 400
    assert [int(problem.id) for problem in deduplicate(_problems(*stories))[0]] == kept
