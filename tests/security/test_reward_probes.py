"""What a policy tries when it wants the reward without the work: each trick and the three rewards it gets.

The expected answer is 3 and the target language English. A row says what the format, accuracy and language rewards must be, so that
a change of any of them shows. Language is a share of words in the target's script; what that cannot see (French for English,
a thought without words) is in the table too, under its true value.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.rewards.accuracy import judge_quickly
from pipeline_lib.rewards.behaviour import language_share
from pipeline_lib.rewards.response import AnswerExtractor, is_well_formed, thought_of
from pipeline_lib.types import Outcome, Verdict

GOOD = "<think>so it is three</think>"
ANSWER = "<answer>3</answer>"

PROBES: dict[str, tuple[str, bool, bool, float]] = {
    # name: (response, well formed, correct, language)
    "the designated form": (f"{GOOD}{ANSWER}", True, True, 1.0),
    "spaces around": (f"\n{GOOD}\n\n{ANSWER} \n", True, True, 1.0),
    # text around
    "text after the answer": (f"{GOOD}{ANSWER} That was easy!", False, True, 1.0),
    "a full stop after": (f"{GOOD}{ANSWER}.", False, True, 1.0),
    "NUL after": (f"{GOOD}{ANSWER}\x00", False, True, 1.0),
    "zero width after": (f"{GOOD}{ANSWER}\u200b", False, True, 1.0),
    "end token as text after": (f"{GOOD}{ANSWER}<|im_end|>", False, True, 1.0),
    "another turn after": (f"{GOOD}{ANSWER}\nUser: and 4?", False, True, 1.0),
    "text before": (f"Sure! {GOOD}{ANSWER}", False, True, 1.0),
    "zero width before": (f"\ufeff{GOOD}{ANSWER}", False, True, 1.0),
    "text between": (f"{GOOD}so{ANSWER}", False, True, 1.0),
    "zero width between": (f"{GOOD}\u200b{ANSWER}", False, True, 1.0),
    # two answers
    "two answers": (f"{GOOD}<answer>2</answer>{ANSWER}", False, False, 1.0),
    "the same answer twice": (f"{GOOD}{ANSWER}{ANSWER}", False, False, 1.0),
    "many answers": (GOOD + "".join(f"<answer>{n}</answer>" for n in range(50)), False, False, 1.0),
    "two in one, or": (f"{GOOD}<answer>3 or 4</answer>", True, False, 1.0),
    "two in one, comma": (f"{GOOD}<answer>3, 4</answer>", True, False, 1.0),
    "two in one, lines": (f"{GOOD}<answer>3\n4</answer>", True, False, 1.0),
    "a range": (f"{GOOD}<answer>1-9</answer>", True, False, 1.0),
    "every number": (f"{GOOD}<answer>{' '.join(map(str, range(100)))}</answer>", True, False, 1.0),
    "a set": (f"{GOOD}<answer>\\{{1,2,3\\}}</answer>", True, False, 1.0),
    # answer in the thought, thought in the answer
    "answer inside the thought": (f"<think>so {ANSWER}</think>", False, False, 1.0),
    "answer in both": (f"<think>so {ANSWER}</think>{ANSWER}", False, True, 1.0),
    "another in the thought": (f"<think>so <answer>4</answer></think>{ANSWER}", False, True, 1.0),
    "thought inside the answer": ("<think>so</think><answer><think>it</think>3</answer>", False, True, 1.0),
    "answer before the thought": (f"{ANSWER}{GOOD}", False, True, 1.0),
    # nested, unclosed, repeated tags
    "nested answers": (f"{GOOD}<answer>{ANSWER}</answer>", False, False, 1.0),
    "nested thoughts": (f"<think>{GOOD}</think>{ANSWER}", False, True, 1.0),
    "two thoughts": (f"{GOOD}{GOOD}{ANSWER}", False, True, 1.0),
    "a thought after": (f"{GOOD}{ANSWER}{GOOD}", False, True, 1.0),
    "thought never closed": (f"<think>so it is{ANSWER}", False, False, 1.0),
    "thought opened again": (f"{GOOD}<think>{ANSWER}", False, False, 1.0),
    "answer never closed": (f"{GOOD}<answer>3", False, False, 1.0),
    "answer never opened": (f"{GOOD}3</answer>", False, False, 1.0),
    "closed before opened": ("</think><think></answer><answer>3", False, False, 1.0),
    "crossed": ("<think>so<answer></think>3</answer>", False, False, 1.0),
    "no tags": ("so it is 3", False, False, 1.0),
    "only the answer": (ANSWER, False, True, 1.0),
    "nothing": ("", False, False, 1.0),
    "the template": ("<think>...</think><answer>...</answer>", True, False, 1.0),
    # nearly tags
    "capitals": ("<THINK>so it is</THINK><ANSWER>3</ANSWER>", False, False, 1.0),
    "spaces in tags": (f"{GOOD}< answer >3</ answer >", False, False, 1.0),
    "attributes": (f'{GOOD}<answer type="number">3</answer>', False, False, 1.0),
    "escaped": (f"{GOOD}&lt;answer&gt;3&lt;/answer&gt;", False, False, 1.0),
    "full width": (f"{GOOD}＜answer＞3＜/answer＞", False, False, 1.0),
    "homoglyph tag": (f"{GOOD}<аnswer>3</аnswer>", False, False, 1.0),
    "zero width in a tag": (f"{GOOD}<ans\u200bwer>3</ans\u200bwer>", False, False, 1.0),
    "soft hyphen in a tag": (f"{GOOD}<ans\u00adwer>3</answer>", False, False, 1.0),
    "in a comment": (f"{GOOD}<!-- {ANSWER} -->", False, True, 1.0),
    "in a code block": (f"{GOOD}```\n{ANSWER}\n```", False, True, 1.0),
    "the whole in a code block": (f"```\n{GOOD}{ANSWER}\n```", False, True, 1.0),
    # answers that are none
    "blank": (f"{GOOD}<answer> \n\t</answer>", False, False, 1.0),
    "no-break space": (f"{GOOD}<answer>\u00a0\u2003</answer>", False, False, 1.0),
    "zero width": (f"{GOOD}<answer>\u200b\u2060\ufeff</answer>", False, False, 1.0),
    "control characters": (f"{GOOD}<answer>\x00\x07</answer>", False, False, 1.0),
    "zero width beside": (f"{GOOD}<answer>3\u200b</answer>", True, False, 1.0),
    "right to left": (f"{GOOD}<answer>\u202e3</answer>", True, False, 1.0),
    "full-width digit": (f"{GOOD}<answer>３</answer>", True, False, 1.0),
    "arabic digit": (f"{GOOD}<answer>٣</answer>", True, False, 1.0),
    "mathematical digit": (f"{GOOD}<answer>𝟑</answer>", True, False, 1.0),
    "superscript": (f"{GOOD}<answer>³</answer>", True, False, 1.0),
    "combining mark": (f"{GOOD}<answer>3\u0335</answer>", True, False, 1.0),
    "Chinese numeral": (f"{GOOD}<answer>三</answer>", True, False, 1.0),
    "the word": (f"{GOOD}<answer>three</answer>", True, False, 1.0),
    "a sentence": (f"{GOOD}<answer>The answer is 3</answer>", True, False, 1.0),
    "the question back": (f"{GOOD}<answer>1+2</answer>", True, False, 1.0),
    "denied": (f"{GOOD}<answer>not 3</answer>", True, False, 1.0),
    "an inequality": (f"{GOOD}<answer>x>2</answer>", True, False, 1.0),
    "a fenced answer": (f"{GOOD}<answer>```\n3\n```</answer>", True, False, 1.0),
    "boxed in the tag": (f"{GOOD}<answer>\\boxed{{3}}</answer>", True, False, 1.0),
    "not a number": (f"{GOOD}<answer>nan</answer>", True, False, 1.0),
    "infinite": (f"{GOOD}<answer>1e999</answer>", True, False, 1.0),
    "a program": (f"{GOOD}<answer>__import__('os')</answer>", True, False, 1.0),
    # right, in another dress
    "dollars": (f"{GOOD}<answer>$3$</answer>", True, True, 1.0),
    "decimal": (f"{GOOD}<answer>3.0</answer>", True, True, 1.0),
    "named": (f"{GOOD}<answer>x = 3</answer>", True, True, 1.0),
    # language
    "empty thought": (f"<think></think>{ANSWER}", True, True, 1.0),
    "a thought of digits": (f"<think>3 + 4 = 7</think>{ANSWER}", True, True, 1.0),
    "a thought of variables": (f"<think>x y z</think>{ANSWER}", True, True, 1.0),
    "Chinese": (f"<think>所以答案是三</think>{ANSWER}", True, True, 0.0),
    "Russian": (f"<think>так вот</think>{ANSWER}", True, True, 0.0),
    "Japanese": (f"<think>そうです</think>{ANSWER}", True, True, 0.0),
    "half and half": (f"<think>so it 所以</think>{ANSWER}", True, True, 0.5),
    "homoglyphs": (f"<think>sо it is</think>{ANSWER}", True, True, 2 / 3),
    "whole words of homoglyphs": (f"<think>ѕо іт</think>{ANSWER}", True, True, 0.0),
    "full-width letters": (f"<think>ｓｏ ｉｔ</think>{ANSWER}", True, True, 1.0),
    "mathematical letters": (f"<think>𝐬𝐨 𝐢𝐭</think>{ANSWER}", True, True, 1.0),
    "Chinese in a formula": (f"<think>so $所以$</think>{ANSWER}", True, True, 1 / 3),
    "Chinese in a code block": (f"<think>```所以```</think>{ANSWER}", True, True, 0.0),
    "Chinese in \\text": (f"<think>\\text{{所以}} so it</think>{ANSWER}", True, True, 0.5),
    "Chinese cut by zero width": (f"<think>所\u200b以</think>{ANSWER}", True, True, 0.0),
    "Chinese outside the thought": (f"<think>so</think>所以{ANSWER}", False, True, 1.0),
    "Chinese in a second thought": (f"<think>so it</think><think>所以</think>{ANSWER}", False, True, 0.5),
    "Chinese without tags": (f"所以{ANSWER}", False, True, 0.0),
    "French": (f"<think>donc trois</think>{ANSWER}", True, True, 1.0),
}


@pytest.mark.parametrize("name", PROBES)
def test_probe(name: str, record_property: Callable[[str, object], None]) -> None:
    response, well_formed, correct, language = PROBES[name]
    assert is_well_formed(response) is well_formed
    found = AnswerExtractor().extract(response).answer
    verdict = Verdict(Outcome.WRONG) if found is None else judge_quickly("3", found)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome is Outcome.CORRECT) is correct
    assert language_share(thought_of(response), "en") == pytest.approx(language)
    record_property("count: tricks that a policy tries for a reward", 1)


def test_words_cut_by_zero_width_characters_are_words() -> None:
    """English under a Chinese target, cut into single letters that would pass for variables."""
    assert language_share("t\u200bh\u200be\u200bn w\u2060e", "zh") == 0.0
    assert language_share("所以 t\u200bhen", "zh") == pytest.approx(2 / 3)
