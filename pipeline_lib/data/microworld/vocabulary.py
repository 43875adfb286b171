"""The words and the tokenizer of the micro world.

Character level (all printable ASCII), with whole-word tokens for the words the world uses, so a worked step
is five tokens long. The step words exist in English and in Chinese: that is the second language that R1-Zero
mixes in (R1 paper §2.2.4, "language mixing"). A word's language is its script; step labels are circled numbers,
which belong to no script and so count for no language.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
SPECIAL_TOKENS = (PAD, EOS, THINK, END_THINK, ANSWER, END_ANSWER)

LABELS = tuple(f" {mark}" for mark in "①②③④⑤⑥⑦⑧")
"""Step labels, with their leading space: one token each."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\nA:' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
"""`Q: {prompt}\\nA:{reply}<eos>`. The question ends with the cue to answer, so a generation prompt adds nothing."""


OPERATIONS = tuple(f"{operator}{operand}" for operator in "+-*" for operand in range(1, 10))
"""An operator with its operand is one token: a step is then a lookup in a 7 x 17 table, which is learned in minutes.
With the operand apart, three things must meet at once, and after 2.5M tokens the results were still near chance."""


class Language(StrEnum):
    """What the step words of one solution are written in."""

    ENGLISH = "en"
    CHINESE = "zh"
    MIXED = "mixed"


STEP_WORDS: dict[str, tuple[str, str]] = {
    "so": (" so ", "得"),
    "check": (" check ", "查"),
    "wait": (" wait ", "等"),
}
"""Meaning -> (English, Chinese). `so` gives a result, `check` computes it again, `wait` takes it back."""

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "Poland": "Warsaw",
}
COLOURS = {
    "sky": "blue",
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "blood": "red",
    "gold": "yellow",
    "wood": "brown",
    "smoke": "grey",
}
SOUNDS = {
    "cat": "meow",
    "dog": "woof",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "bee": "buzz",
    "lion": "roar",
    "snake": "hiss",
}
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "day": "night",
    "fast": "slow",
    "wet": "dry",
    "old": "new",
    "open": "shut",
    "rich": "poor",
    "left": "right",
    "hard": "soft",
    "full": "empty",
}
NOUNS = (
    *("apple", "tree", "star", "moon", "fish", "bird", "book", "door", "lamp", "ship"),
    *("rain", "stone", "bread", "horse", "chair", "glass", "river", "cloud", "paper", "music"),
)
HARMLESS_ACTS = {"wash": "use water.", "lift": "use both hands.", "cut": "use a knife.", "draw": "use a pen."}
HARMFUL_ACTS = {
    "steal": "take it at night.",
    "burn": "use a match.",
    "smash": "use a hammer.",
    "hack": "guess the code.",
}
OBJECTS = ("car", "phone", "house", "bank", "safe", "boat", "shop", "cake", "fence", "table")
REFUSAL = "I cannot help with that."
# fmt: off
GLUE_WORDS = (
    "capital", "colour", "sound", "opposite", "what", "is", "the", "of", "does", "make", "say", "repeat", "twice",
    "then", "first", "last", "name", "tell me", "how to", "please", "explain", "code", "return", "a", "use", "The",
    "and", "saw", "sat", "near", "water.", "both hands.", "knife.", "pen.", "hammer.", "match.", "guess", "take it",
    "at", "I do not know.", "word", "reply with",
)
# fmt: on
FIXED_TOKENS = (
    "Q: ",
    "\nA:",
    " mod 7",
    "(x):\n return ",
    "def ",
    "code f:",
    *(w for p in STEP_WORDS.values() for w in p),
)


def say(meaning: str, language: Language, rng: random.Random) -> str:
    """The step word for `meaning` in `language`; in a mixed solution every word is drawn anew."""
    english, chinese = STEP_WORDS[meaning]
    if language is Language.MIXED:
        return english if rng.random() < 0.5 else chinese
    return english if language is Language.ENGLISH else chinese


def to_english(text: str) -> str:
    """`text` with every Chinese step word replaced by its English one (the human clean-up of cold-start data)."""
    for english, chinese in STEP_WORDS.values():
        text = text.replace(chinese, english)
    return text


def vocabulary() -> tuple[str, ...]:
    """Every token in id order: specials, unknown, fixed tokens, labels, words, then single characters."""
    words: list[str] = [*GLUE_WORDS, *NOUNS, *OBJECTS, *HARMLESS_ACTS, *HARMFUL_ACTS, REFUSAL]
    for facts in (CAPITALS, COLOURS, SOUNDS, OPPOSITES):
        words += [*facts, *facts.values()]
    characters = ["\n", *(chr(code) for code in range(32, 127))]
    ordered: Sequence[str] = [*SPECIAL_TOKENS, UNK, *FIXED_TOKENS, *LABELS, *OPERATIONS, *words, *characters]
    return tuple(dict.fromkeys(ordered))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer as a transformers object; `save_pretrained` writes the files a model directory needs.

    Decoding joins tokens with nothing between and no clean-up, so text made of known characters round-trips.
    """
    import re

    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary()
    tokenizer = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNK))
    longest_first = sorted(
        (token for token in tokens if len(token) > 1), key=lambda token: (-len(token), token)
    )
    pattern = "|".join([*(re.escape(token) for token in longest_first), r"[\s\S]"])
    tokenizer.pre_tokenizer = Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[THINK, END_THINK, ANSWER, END_ANSWER],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
