"""Where answers and thoughts are found, and what the format check refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.rewards.response import (
    AnswerExtractor,
    AnswerStyle,
    is_well_formed,
    outside_thought,
    strip_fence,
    thought_of,
)

_free = st.text(max_size=30).filter(lambda text: "<" not in text)
_pieces = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "3", "x", "\n", " ", "<", ">"]),
    max_size=12,
)


def _tag(response: str) -> str | None:
    return AnswerExtractor().extract(response).answer


@settings(max_examples=50, deadline=None)
@given(_free, _free)
def test_the_designated_form_passes_and_gives_its_answer(thought: str, answer: str) -> None:
    response = f"<think>{thought}</think><answer>{answer}</answer>"
    visible = any(char.isprintable() and not char.isspace() for char in answer)
    assert is_well_formed(response) is visible
    assert thought_of(response) == thought
    assert _tag(response) == (answer.strip() if visible else None)


@settings(max_examples=200, deadline=None)
@given(_pieces)
def test_only_the_designated_form_passes(pieces: list[str]) -> None:
    response = "".join(pieces)
    if not is_well_formed(response):
        return
    kinds = [piece for piece in pieces if piece.startswith("<") and len(piece) > 1]
    assert kinds == ["<think>", "</think>", "<answer>", "</answer>"]
    assert response.strip().startswith("<think>")
    assert response.strip().endswith("</answer>")
    assert _tag(response) is not None


@settings(max_examples=200, deadline=None)
@given(_pieces)
def test_extraction_never_raises_and_never_returns_a_tag(pieces: list[str]) -> None:
    for style in AnswerStyle:
        found = AnswerExtractor(style).extract("".join(pieces))
        assert (found.answer is None) is bool(found.reason)
    answer = _tag("".join(pieces))
    assert answer is None or "<think>" not in answer


@pytest.mark.parametrize(
    "response",
    [
        "<think>a</think><answer>3</answer>",
        "<think>a</think>\n<answer>3</answer>\n",
        "<think></think><answer>3</answer>",
        "  <think>a < b</think> <answer>3</answer>",
    ],
)
def test_well_formed(response: str) -> None:
    assert is_well_formed(response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "3",
        "<answer>3</answer>",
        "<think>a</think>3",
        "<think>a</think><answer>3</answer> and more",
        "<think>a</think><answer>3</answer><answer>3</answer>",
        "so <think>a</think><answer>3</answer>",
        "<think>a</think>so<answer>3</answer>",
        "<think><think>a</think></think><answer>3</answer>",
        "<think>a</think><think>b</think><answer>3</answer>",
        "<think>a<answer>3</answer></think>",
        "<think>a<answer>2</answer></think><answer>3</answer>",
        "<answer>3</answer><think>a</think>",
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> \n</answer>",
        "<think>a</think><answer>\u200b\ufeff \x00</answer>",
        "<think>a</think><answer>3",
        "<think>a<answer>3</answer>",
        "<THINK>a</THINK><ANSWER>3</ANSWER>",
        "<think>a</think><answer>3</answer><|end|>",
        "</think><think><answer>3</answer>",
    ],
)
def test_badly_formed(response: str) -> None:
    assert not is_well_formed(response)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>a</think><answer> 3 </answer>", "3"),
        ("a<answer>3</answer>", "3"),
        ("a</think><answer>3</answer>", "3"),
        ("<think>a</think><answer>3</answer> trailing", "3"),
        ("<think><answer>2</answer></think><answer>3</answer>", "3"),
        ("<think><answer>3</answer></think>", None),
        ("<think><answer>3</answer>", None),
        ("<answer>3</answer><answer>3</answer>", None),
        ("<answer>2</answer><answer>3</answer>", None),
        ("<answer><answer>3</answer></answer>", None),
        ("<answer>3</answer><answer>", None),
        ("<think>a</think><answer>2</answer><think>b</think><answer>3</answer>", None),
        ("<think>a</think><answer>3", None),
        ("<think>a</think><answer>3</answer><think>", None),
        ("<think>a</think>3", None),
        ("", None),
    ],
)
def test_tag_style(response: str, answer: str | None) -> None:
    assert _tag(response) == answer


@pytest.mark.parametrize(
    ("style", "response", "answer"),
    [
        (AnswerStyle.BOXED, r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (AnswerStyle.BOXED, r"\boxed{1~2é}", "1~2é"),
        (AnswerStyle.BOXED, r"\boxed{3} and again \boxed{3}", "3"),
        (AnswerStyle.BOXED, r"\boxed{3} or \boxed{4}", None),
        (AnswerStyle.BOXED, r"<think>\boxed{4}</think>\boxed{3}", "3"),
        (AnswerStyle.BOXED, r"<think>\boxed{4}</think>", None),
        (AnswerStyle.BOXED, r"\boxed{3", None),
        (AnswerStyle.BOXED, r"\boxed{3} and a } brace", "3"),
        (AnswerStyle.BOXED, r"\boxed{}", None),
        (AnswerStyle.HASHES, "a\n#### 18", "18"),
        (AnswerStyle.HASHES, "#### 18\n#### 19", None),
        (AnswerStyle.HASHES, "it is #### 18", None),
        (AnswerStyle.CODE_BLOCK, "like\n```python\nx = 1\n```\n", "x = 1"),
        (AnswerStyle.CODE_BLOCK, "```\na\n```\nthen\n```python\nb\n```", "b"),
        (AnswerStyle.CODE_BLOCK, "```python\nb\n", None),
        (AnswerStyle.CODE_BLOCK, "<think>```\na\n```</think>", None),
    ],
)
def test_other_styles(style: AnswerStyle, response: str, answer: str | None) -> None:
    assert AnswerExtractor(style).extract(response).answer == answer


@pytest.mark.parametrize(
    ("style", "response", "reason"),
    [
        (AnswerStyle.TAG, "<think>a", "the chain of thought is never closed"),
        (AnswerStyle.TAG, "3", "no answer in the designated place"),
        (AnswerStyle.TAG, "<answer>3</answer><answer>3</answer>", "more than one answer"),
        (AnswerStyle.TAG, "<answer>3</answer></answer>", "more than one answer"),
        (AnswerStyle.TAG, "<answer>3", "the answer is never closed"),
        (AnswerStyle.TAG, "</answer><answer>3", "the answer is never closed"),
        (AnswerStyle.TAG, "<answer> </answer>", "the answer is empty"),
        (AnswerStyle.TAG, "<answer>\u200b</answer>", "the answer is empty"),
        (AnswerStyle.BOXED, "3", "no answer in the designated place"),
        (AnswerStyle.BOXED, "\\boxed{3} \\boxed{4}", "more than one answer"),
        (AnswerStyle.BOXED, "\\boxed{ }", "the answer is empty"),
        (AnswerStyle.BOXED, "\\boxed{3} \\boxed{4", ""),
    ],
)
def test_the_reason_is_told(style: AnswerStyle, response: str, reason: str) -> None:
    assert AnswerExtractor(style).extract(response).reason == reason


@pytest.mark.parametrize(
    ("text", "outside", "thought"),
    [
        ("a<think>b</think>c<think>d</think>e", "a\nc\ne", "b\nd"),
        ("b</think>c", "c", "b"),
        ("b</think>c<think>d</think>e", "c\ne", "b\nd"),
        ("<think>b</think>", "\n", "b"),
        ("</think>", "", ""),
        ("", "", ""),
    ],
)
def test_a_response_is_cut_at_its_think_tags(text: str, outside: str, thought: str) -> None:
    assert outside_thought(text) == outside
    assert thought_of(text) == thought


def test_a_fence_may_surround_a_program_and_nothing_else() -> None:
    assert strip_fence(" ```py\nx\n``` ") == "x\n"
    assert strip_fence("```x```") == "x"
    assert strip_fence("```py\nx\n```y```") == "```py\nx\n```y```"
    assert strip_fence("a```py\nx\n```") == "a```py\nx\n```"
    assert strip_fence("```py\nx\n```a") == "```py\nx\n```a"
    assert strip_fence("``` \nx\n```") == "x\n"


def test_the_last_closed_block_is_the_program() -> None:
    extract = AnswerExtractor(AnswerStyle.CODE_BLOCK).extract
    assert extract("```a```b```c```").answer == "c"
    assert extract("```a```b```c").answer == "a"
    assert extract("```a").answer is None
    assert extract("a").answer is None


def test_outside_thought() -> None:
    assert outside_thought("a<think>b</think>c") == "a\nc"
    assert outside_thought("<think>b") is None
    assert thought_of("a so b<answer>3</answer>") == "a so b"


def test_strip_fence() -> None:
    assert strip_fence("```python\nx\n```") == "x\n"
    assert strip_fence("```\nx\n```") == "x\n"
    assert strip_fence("x = '```'") == "x = '```'"
    assert strip_fence("```a b\nx\n```") == "a b\nx\n"
    assert strip_fence("```python \nx\n```") == "x\n"
    assert strip_fence("```") == "```"
