"""The words of a text: one expression finds them, and finds what splitting and stripping would."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.data.words import ngrams, words

AROUND = ".,;:!?\"'`()[]{}<>…“”‘’«»。，；：！？（）「」"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


def _plainly(text: str) -> tuple[str, ...]:
    """Split at spaces and around Han characters, then strip."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    pieces = re.sub(f"([{HAN}])", r" \1 ", folded).split()
    return tuple(bare for piece in pieces if (bare := piece.strip(AROUND)))


@settings(max_examples=500, deadline=None)
@given(
    st.text()
    | st.text(alphabet=f"aB1+-é法 \n\t{AROUND}", max_size=40)
    | st.text(st.characters(codec="ascii"), max_size=40)
)
def test_words_are_what_is_left_of_the_pieces(text: str) -> None:
    assert words(text) == _plainly(text)


def test_punctuation_within_a_word_stays() -> None:
    assert words("(don't) 1,234.50. -- f(x)! ...") == ("don't", "1,234.50", "--", "f(x")
    assert words("是3+4？") == ("是", "3+4")


def test_a_long_row_of_punctuation_is_gone_through_once() -> None:
    assert words("a" + "." * 1_000_000 + "b") == ("a" + "." * 1_000_000 + "b",)
    assert words("." * 1_000_000) == ()
    assert words("a" + "." * 1_000_000) == ("a",)


def test_ngrams_of_a_short_text_are_none() -> None:
    assert ngrams(("a", "b"), 3) == set()
    assert ngrams(("a", "b", "a", "b"), 2) == {("a", "b"), ("b", "a")}
