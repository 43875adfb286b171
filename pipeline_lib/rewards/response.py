"""Where the thought and the answer are in a response (L ch.1: reasoning in think tags, the answer in a designated place).

Two questions are kept apart. `is_well_formed` is the format check: a full match of the whole response. `AnswerExtractor`
only asks whether exactly one answer stands outside the chain of thought; it can be found in a badly formed response.
Everything is plain string search, linear in the text: no regular expression to bomb.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
_TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)


class AnswerStyle(StrEnum):
    """The designated place of the final answer."""

    TAG = "tag"
    """`<answer>...</answer>`."""
    BOXED = "boxed"
    r"""`\boxed{...}`, as competition-trained models write."""
    HASHES = "hashes"
    """A line that begins with `#### `, as in GSM8K."""
    CODE_BLOCK = "code_block"
    """A fenced ``` block."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer, or why there is none."""

    answer: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AnswerExtractor:
    """Finds the one answer outside the chain of thought.

    An answer inside the thought does not count. Two different answers are none: a response may not hedge. In the tag style two
    answers are none even when they agree, because the format asks for one.
    """

    style: AnswerStyle = AnswerStyle.TAG

    def extract(self, response: str) -> Extraction:
        """The answer of a whole response, surrounding whitespace removed."""
        outside = outside_thought(response)
        if outside is None:
            return Extraction(None, "the chain of thought is never closed")
        if self.style is AnswerStyle.TAG:
            return _tagged(outside)
        find = {
            AnswerStyle.BOXED: _boxed,
            AnswerStyle.HASHES: _after_hashes,
            AnswerStyle.CODE_BLOCK: _code_blocks,
        }[self.style]
        found = {answer.strip() for answer in find(outside)}
        if len(found) != 1:
            return Extraction(None, "more than one answer" if found else "no answer in the designated place")
        (answer,) = found
        return Extraction(answer) if answer else Extraction(None, "the answer is empty")


def is_well_formed(response: str) -> bool:
    """True when the whole response is `<think>...</think><answer>...</answer>`.

    Each tag exactly once, in that order, nothing but whitespace before, between and after, and an answer that is not
    blank. An empty thought passes: whether to think is for accuracy to teach, not for the format.
    """
    text = response.strip()
    if not (text.startswith(THINK) and text.endswith(END_ANSWER)):
        return False
    if any(text.count(tag) != 1 for tag in _TAGS):
        return False
    end_thought, answer = text.index(END_THINK), text.index(ANSWER)
    between = text[end_thought + len(END_THINK) : answer]
    inside = text[answer + len(ANSWER) : -len(END_ANSWER)]
    return end_thought < answer and not between.strip() and _is_visible(inside)


def _is_visible(text: str) -> bool:
    """False for blanks, and for zero-width characters, which print nothing either."""
    return any(char.isprintable() and not char.isspace() for char in text)


def thought_of(response: str) -> str:
    """The chain of thought: all text between think tags, or, where there are none, everything but the answer."""
    if THINK not in response and END_THINK not in response:
        return response.partition(ANSWER)[0]
    return "\n".join(inside for inside, is_thought in _pieces(response) if is_thought)


def outside_thought(response: str) -> str | None:
    """The text that is not chain of thought; None when a thought is never closed.

    A closing tag without an opening one closes a thought that the prompt opened.
    """
    if _ends_inside_thought(response):
        return None
    return "\n".join(piece for piece, is_thought in _pieces(response) if not is_thought)


def _ends_inside_thought(response: str) -> bool:
    return response.rfind(THINK) > response.rfind(END_THINK)


def _pieces(response: str) -> list[tuple[str, bool]]:
    """The response cut at think tags: (text, is chain of thought), tags removed."""
    pieces: list[tuple[str, bool]] = []
    before, close, _ = response.partition(END_THINK)
    position, inside = 0, bool(close) and THINK not in before
    while position <= len(response):
        tag = END_THINK if inside else THINK
        end = response.find(tag, position)
        if end == -1:
            pieces.append((response[position:], inside))
            break
        pieces.append((response[position:end], inside))
        position = end + len(tag)
        inside = not inside
    return pieces


def _tagged(text: str) -> Extraction:
    if text.count(ANSWER) == 0:
        return Extraction(None, "no answer in the designated place")
    if text.count(ANSWER) > 1 or text.count(END_ANSWER) > 1:
        return Extraction(None, "more than one answer")
    start = text.index(ANSWER) + len(ANSWER)
    end = text.find(END_ANSWER, start)
    if end == -1:
        return Extraction(None, "the answer is never closed")
    answer = text[start:end].strip()
    if any(tag in answer for tag in _TAGS):
        return Extraction(None, "a tag inside the answer")
    return Extraction(answer) if _is_visible(answer) else Extraction(None, "the answer is empty")


def _boxed(text: str) -> list[str]:
    r"""The contents of every `\boxed{...}`, braces matched; an unclosed one is not an answer."""
    found = []
    start = text.find("\\boxed{")
    while start != -1:
        opening = start + len("\\boxed{")
        depth, position = 1, opening
        while position < len(text) and depth:
            depth += (text[position] == "{") - (text[position] == "}")
            position += 1
        if depth:
            break
        found.append(text[opening : position - 1])
        start = text.find("\\boxed{", position)
    return found


def _after_hashes(text: str) -> list[str]:
    return [line[5:] for line in text.splitlines() if line.startswith("#### ")]


def _code_blocks(text: str) -> list[str]:
    """The last fenced block: a program is often followed by nothing, and preceded by drafts and examples."""
    blocks = text.split("```")[1:-1:2]  # an unclosed one is the last part
    return [strip_fence("```" + blocks[-1] + "```")] if blocks else []


def strip_fence(text: str) -> str:
    """The inside of a text that is one fenced block, the language tag removed; any other text unchanged."""
    trimmed = text.strip()
    if not (trimmed.startswith("```") and trimmed.endswith("```") and trimmed.count("```") == 2):
        return text
    first_line, newline, rest = trimmed[3:-3].partition("\n")
    return rest if (newline and first_line.strip().isalnum()) or not first_line.strip() else trimmed[3:-3]
