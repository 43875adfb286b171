"""What a response does, measured by its words: languages, reflection, verification, backtracking, repetition.

Pure functions of text; nothing here decides a verdict. The lexical lists are a documented proxy (the paper counts words such as
"wait" to show reflection emerging, v1 §2.2.4, v2 §2.3): they over-count quotations and miss paraphrase, so they are
compared between models on the same problems, never read as absolute shares. Where a world knows better (the micro world's
step words) its exact measure lies in `pipeline_lib.data.microworld.measures`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from pipeline_lib.errors import ConfigError

REFLECTION_WORDS = {
    "en": (
        "wait",
        "hmm",
        "let me think",
        "let me reconsider",
        "on second thought",
        "rethink",
        "reconsider",
        "think again",
    ),
    "zh": ("等", "嗯", "让我想想", "再想", "重新考虑", "仔细想", "反思"),
}
"""The response stops and thinks about its own thinking."""
VERIFICATION_WORDS = {
    "en": (
        "check",
        "checking",
        "verify",
        "verifying",
        "double-check",
        "confirm",
        "make sure",
        "substitute back",
    ),
    "zh": ("查", "检查", "验证", "核对", "确认", "验算", "检验"),
}
"""The response works a result out a second time."""
BACKTRACKING_WORDS = {
    "en": (
        "wait",
        "no,",
        "actually",
        "that's wrong",
        "that is wrong",
        "mistake",
        "go back",
        "start over",
        "instead",
    ),
    "zh": ("等", "不对", "其实", "错了", "回到", "重新开始", "重来"),
}
"""The response takes something back."""

_SCRIPTS = {
    "en": ("LATIN",),
    "fr": ("LATIN",),
    "de": ("LATIN",),
    "es": ("LATIN",),
    "zh": ("CJK",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "ar": ("ARABIC",),
    "hi": ("DEVANAGARI",),
    "th": ("THAI",),
    "el": ("GREEK",),
    "he": ("HEBREW",),
}
_KNOWN_SCRIPTS = frozenset(script for scripts in _SCRIPTS.values() for script in scripts)
_ONE_CHARACTER_WORDS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI"})
_ASCII_WORD = re.compile(r"[A-Za-z]{2,}")
_COMMAND = re.compile(r"\\[A-Za-z]+|</?(?:think|answer)>")


@lru_cache(maxsize=8192)
def _script(char: str) -> str:
    """The script of a letter by its Unicode name; empty for digits, marks and symbols."""
    if not unicodedata.category(char).startswith("L"):
        return ""
    script = unicodedata.name(char, "").partition(" ")[0]
    return script if script in _KNOWN_SCRIPTS else "OTHER"


def word_scripts(text: str) -> list[str]:
    """The script of every word, in order.

    A word is a run of letters of one script, or one character where a script writes no spaces (Han, kana, Thai). A
    single Latin or Greek letter is a variable, and LaTeX commands and tags are notation: none of them is a word.
    """
    plain = unicodedata.normalize("NFKC", text)
    if "\\" in plain or "<" in plain:
        plain = _COMMAND.sub(" ", plain)
    if plain.isascii():
        return ["LATIN"] * len(_ASCII_WORD.findall(plain))
    found: list[str] = []
    run, length = "", 0
    for char in plain + " ":
        if (
            unicodedata.category(char) == "Cf"
        ):  # zero-width: would cut a word into single letters, which count for nothing
            continue
        script = "" if unicodedata.combining(char) else _script(char)
        if script == run and script not in _ONE_CHARACTER_WORDS:
            length += 1
            continue
        if run and (length > 1 or run not in ("LATIN", "GREEK")):
            found.append(run)
        run, length = script, 1
    return found


def language_share(text: str, target: str) -> float:
    """Share of words written in the target language's script, in [0, 1]; 1.0 for a text without words.

    Raises:
        ConfigError: no script is known for `target`.
    """
    scripts = _scripts_of(target)
    words = word_scripts(text)
    return sum(words.count(script) for script in scripts) / len(words) if words else 1.0


def is_mixed(text: str, tolerance: float = 0.05) -> bool:
    """True when more than `tolerance` of the words are in another script than the commonest one."""
    words = word_scripts(text)
    if not words:
        return False
    families = ["CJK" if word in ("HIRAGANA", "KATAKANA") else word for word in words]
    commonest = max(Counter(families).values())
    return 1 - commonest / len(families) > tolerance


def language_of(text: str) -> str:
    """`en`, `zh` or another language's code by script, `mixed`, or empty for a text without words."""
    words = word_scripts(text)
    if not words:
        return ""
    if is_mixed(text):
        return "mixed"
    commonest = min(Counter(words).items(), key=lambda item: (-item[1], item[0]))[0]
    return next((code for code, scripts in _SCRIPTS.items() if commonest in scripts), "other")


def _scripts_of(target: str) -> tuple[str, ...]:
    if target not in _SCRIPTS:
        raise ConfigError("language", target, f"use one of {', '.join(sorted(_SCRIPTS))}")
    return _SCRIPTS[target]


@lru_cache(maxsize=16)
def _pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(words, key=lambda word: (-len(word), word))
    parts = [
        rf"(?<![A-Za-z]){re.escape(w)}(?![A-Za-z])" if w[0].isascii() else re.escape(w) for w in longest_first
    ]
    return re.compile("|".join(parts), re.IGNORECASE)


def count_words(text: str, lists: dict[str, tuple[str, ...]]) -> int:
    """How often any listed word or phrase occurs, longest first, without overlap."""
    return len(_pattern(tuple(word for words in lists.values() for word in words)).findall(text))


def _share(texts: Sequence[str], lists: dict[str, tuple[str, ...]]) -> float:
    return sum(count_words(text, lists) > 0 for text in texts) / len(texts) if texts else 0.0


def reflection_share(texts: Sequence[str]) -> float:
    """Share of responses with at least one reflection word."""
    return _share(texts, REFLECTION_WORDS)


def verification_share(texts: Sequence[str]) -> float:
    """Share of responses with at least one verification word."""
    return _share(texts, VERIFICATION_WORDS)


def backtracking_share(texts: Sequence[str]) -> float:
    """Share of responses with at least one backtracking word."""
    return _share(texts, BACKTRACKING_WORDS)


def mixed_share(texts: Sequence[str]) -> float:
    """Share of responses that mix languages."""
    return sum(map(is_mixed, texts)) / len(texts) if texts else 0.0


def repetition_share(text: str, ngram: int = 8) -> float:
    """Share of n-word phrases that are repeats of an earlier one, in [0, 1)."""
    units = re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]", text)
    phrases = [tuple(units[i : i + ngram]) for i in range(len(units) - ngram + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0
