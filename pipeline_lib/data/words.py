"""The words that duplicates and benchmark overlap are counted in.

Case, typography and the punctuation around words are ignored; signs that carry mathematics are kept, because
`4 + 5` and `4 * 5` are different problems. A Han character is a word of its own, as Chinese writes no spaces.
"""

from __future__ import annotations

import re
import unicodedata

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PUNCTUATION = ".,;:!?\"'`()[]{}<>…“”‘’«»。，；：！？（）「」"
_ASCII_PUNCTUATION = "".join(sign for sign in _PUNCTUATION if sign.isascii())
_AROUND = re.escape(_PUNCTUATION)
_WORD = re.compile(rf"[{_HAN}]|[^\s{_HAN}{_AROUND}](?:[^\s{_HAN}]*[^\s{_HAN}{_AROUND}])?")
"""A Han character, or what stands between spaces and Han characters, from its first to its last sign that is no punctuation."""


def words(text: str) -> tuple[str, ...]:
    """Lower-case words in order, without the punctuation around them.

    >>> words("What is (4 + 5)?")
    ('what', 'is', '4', '+', '5')
    """
    if text.isascii():
        return _ascii_words(text)
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _ascii_words(text: str) -> tuple[str, ...]:
    """The same words, where letters have one form and nothing is Han: in less than half the time."""
    return tuple([word for run in text.lower().split() if (word := run.strip(_ASCII_PUNCTUATION))])


def ngrams(sequence: tuple[str, ...], n: int) -> set[tuple[str, ...]]:
    """Every run of `n` consecutive words; empty when there are fewer."""
    return {sequence[start : start + n] for start in range(len(sequence) - n + 1)}
