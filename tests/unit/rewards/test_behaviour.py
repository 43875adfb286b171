"""Language and behaviour measures: by script, by word lists, without judging."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline_lib.rewards.behaviour as b
from pipeline_lib.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("so the answer is five", "en", 1.0),
        ("so 3 得 4 so 5", "en", 2 / 3),
        ("得得 so", "zh", 2 / 3),
        ("①+3 ②*2 = 7, x", "en", 1.0),
        ("", "en", 1.0),
        ("x + y = z", "zh", 1.0),
        ("\\frac{1}{2} 得", "zh", 1.0),
        ("привет", "en", 0.0),
        ("ｆｕｌｌ width", "en", 1.0),
        ("α β γ so", "en", 1.0),
        ("ответ so", "ru", 0.5),
        ("от\u200bвет мир so", "ru", 2 / 3),
        ("ответ\nмир so", "ru", 2 / 3),
        ("日本語です", "ja", 1.0),
        ("été naïve", "en", 1.0),
    ],
)
def test_language_share(text: str, target: str, share: float) -> None:
    assert b.language_share(text, target) == pytest.approx(share)


def test_unknown_language() -> None:
    with pytest.raises(ConfigError, match="language"):
        b.language_share("a", "tlh")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_shares_are_shares(text: str) -> None:
    assert 0.0 <= b.language_share(text, "en") <= 1.0
    assert 0.0 <= b.repetition_share(text, 2) <= 1.0
    b.is_mixed(text)
    b.language_of(text)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="0123456789+-*/=()①②③ .,\n", max_size=40))
def test_numbers_and_symbols_change_nothing(noise: str) -> None:
    assert b.language_share(f"so {noise} 得", "en") == 0.5


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="abAB 12+\\_-<>\n", max_size=40))
def test_plain_text_takes_a_shorter_way_to_the_same_words(text: str) -> None:
    assert b.word_scripts(text) == b.word_scripts(text + " ∑")


def test_mixing() -> None:
    assert b.is_mixed("so 3 得 4")
    assert not b.is_mixed("so 3 so 4")
    assert not b.is_mixed("123")
    assert not b.is_mixed("word " * 99 + "得")
    assert b.mixed_share(["so 得", "so so"]) == 0.5
    assert [b.language_of(t) for t in ("so it is", "所以", "so 得", "3", "ответ")] == [
        "en",
        "zh",
        "mixed",
        "",
        "ru",
    ]


def test_mixing_begins_above_the_tolerance() -> None:
    assert not b.is_mixed("so so so 得", tolerance=0.25)
    assert b.is_mixed("so so so 得", tolerance=0.24)
    assert b.mixed_share([]) == 0.0


def test_the_commonest_script_names_the_language_and_a_tie_goes_by_name() -> None:
    assert b.language_of("です日本") == "zh"
    assert b.language_of("です日") == "ja"


def test_words_that_show_behaviour() -> None:
    texts = ["so 3 check 3", "so 4 wait 5", "得 3 查 3", "so 3"]
    assert b.verification_share(texts) == 0.5
    assert b.backtracking_share(texts) == 0.25
    assert b.reflection_share(texts) == 0.25
    assert b.verification_share([]) == 0.0


def test_words_are_whole_words() -> None:
    assert b.count_words("paycheck checker", b.VERIFICATION_WORDS) == 0
    assert b.count_words("Check. CHECKING", b.VERIFICATION_WORDS) == 2
    assert b.count_words("检查", b.VERIFICATION_WORDS) == 1


def test_the_longest_phrase_is_counted_and_its_parts_are_not() -> None:
    assert b.count_words("甲乙", {"zh": ("甲", "乙", "甲乙")}) == 1


def test_latin_words_need_an_end_han_words_do_not_and_no_word_is_a_pattern() -> None:
    assert b.count_words("TT恤", {"zh": ("T恤",)}) == 0
    assert b.count_words("x检查y", b.VERIFICATION_WORDS) == 1
    assert b.count_words("abc a.c", {"en": ("a.c",)}) == 1
    assert b.count_words("等x 等.", {"zh": ("等.",)}) == 1


def test_a_phrase_has_eight_words_unless_told() -> None:
    assert b.repetition_share("a b c d e f g h " * 2) == pytest.approx(1 - 8 / 9)


def test_repetition() -> None:
    assert b.repetition_share("a b c d", 2) == 0.0
    assert b.repetition_share("a b a b a b", 2) == pytest.approx(1 - 2 / 5)
    assert b.repetition_share("等等等等", 2) == pytest.approx(1 - 1 / 3)
    assert b.repetition_share("a", 8) == 0.0
