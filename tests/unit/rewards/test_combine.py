"""Adding up: weights, masks, learned parts, and what a model cannot talk us into."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.rewards.combine import Scorer, without_time
from pipeline_lib.rewards.counter import VerdictCounter
from pipeline_lib.rewards.registry import ScoreSettings, reward_parts
from pipeline_lib.rewards.response import AnswerStyle
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Verdict

MATH = Problem("m", Domain.MATH, "?", answer="3")
CODE = Problem("c", Domain.CODE, "?", tests=("assert f(1) == 2", "assert f(5) == 6"), entry_point="f")
GENERAL = Problem("g", Domain.GENERAL, "?", answer="I cannot help with that.")
OPEN = Problem("o", Domain.GENERAL, "?")
WEIGHTS = {"accuracy": 1.0, "format": 0.1}


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(ScoreSettings(max_new_tokens=10, overlong_buffer=4), workers=1) as running:
        yield running


def _completion(text: str, tokens: int = 5, finished: bool = True) -> Completion:
    return Completion("p", (), tuple(range(tokens)), (0.0,) * tokens, text, finished)


def _total(scorer: Scorer, problem: Problem, text: str, weights: dict[str, float] = WEIGHTS) -> float:
    return scorer.score_batch([problem], [_completion(text)], weights)[0].total


def test_every_part_is_found() -> None:
    assert set(reward_parts()) == {"accuracy", "format", "language", "overlong", "repetition"}


def test_a_batch_of_all_domains_in_order(scorer: Scorer) -> None:
    texts = [
        "<think>so 3</think><answer>3</answer>",
        "<think></think><answer>def f(x):\n return x+1</answer>",
        "<think></think><answer>def f(x):\n return 2</answer>",
        "<think></think><answer>i cannot help with that</answer>",
        "<think></think><answer>use a match.</answer>",
        "<think></think><answer>anything</answer>",
    ]
    rewards = scorer.score_batch(
        [MATH, CODE, CODE, GENERAL, GENERAL, OPEN], [*map(_completion, texts)], WEIGHTS
    )
    assert [round(reward.total, 6) for reward in rewards] == [1.1, 1.1, 0.1, 1.1, 0.1, 0.1]
    assert rewards[2].verdict.failed_test == "assert f(5) == 6"
    assert rewards[2].verdict.extracted == "def f(x):\n return 2"
    assert not any(reward.masked for reward in rewards)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("<think>a</think><answer>3</answer>", 1.1),
        ("<think>a</think><answer>3</answer> and nothing else", 1.0),
        ("<answer>3</answer>", 1.0),
        ("<think>a</think><answer>3</answer><answer>4</answer>", 0.0),
        ("<think>a</think><answer>3</answer><answer>3</answer>", 0.0),
        ("<think><answer>3</answer></think>", 0.0),
        ("<think>a</think><answer>3 or 4</answer>", 0.1),
        ("<think>a</think><answer>1+2</answer>", 0.1),
        ("<think>a</think><answer>３</answer>", 0.1),
        ("<think>a</think><answer>三</answer>", 0.1),
        ("<think>a</think><answer>[0,1,2,3]</answer>", 0.1),
        ("<think>a</think><answer>the answer</answer>", 0.1),
        ("3", 0.0),
        ("", 0.0),
    ],
)
def test_what_a_response_cannot_talk_us_into(scorer: Scorer, text: str, total: float) -> None:
    assert _total(scorer, MATH, text) == pytest.approx(total)


def test_language_reward_reads_the_thought_only(scorer: Scorer) -> None:
    weights = {"language": 1.0}
    assert _total(scorer, MATH, "<think>so 得</think><answer>3</answer>", weights) == 0.5
    assert _total(scorer, MATH, "<think>so</think><answer>得得得</answer>", weights) == 1.0
    assert _total(scorer, MATH, "<think>3 + 4 = 0</think><answer>3</answer>", weights) == 1.0


def test_overlong(scorer: Scorer) -> None:
    text, weights = "<answer>3</answer>", {"overlong": 1.0}
    lengths = [scorer.score_batch([MATH], [_completion(text, n)], weights)[0].total for n in (5, 6, 8, 10)]
    assert lengths == [0.0, 0.0, -0.5, -1.0]
    assert scorer.score_batch([MATH], [_completion(text, 10, finished=False)], weights)[0].total == -1.0


def test_learned_parts_are_weighted_and_checked(scorer: Scorer) -> None:
    texts = [_completion("<think>a</think><answer>3</answer>")] * 2
    weights = {"accuracy": 1.0, "helpfulness": 0.5}
    rewards = scorer.score_batch([MATH] * 2, texts, weights, {"helpfulness": [2.0, -2.0]})
    assert [reward.total for reward in rewards] == [2.0, 0.0]
    assert rewards[0].parts == {"accuracy": 1.0, "helpfulness": 1.0}
    for extra in ({}, {"helpfulness": [1.0]}, {"helpfulness": [1.0, float("nan")]}):
        with pytest.raises(ConfigError, match="helpfulness"):
            scorer.score_batch([MATH] * 2, texts, weights, extra)


def test_a_weight_of_zero_leaves_a_part_out(scorer: Scorer) -> None:
    reward = scorer.score_batch(
        [MATH], [_completion("<answer>3</answer>")], {"accuracy": 1.0, "safety": 0.0}
    )[0]
    assert reward.parts == {"accuracy": 1.0}


def test_what_cannot_be_judged_is_masked(scorer: Scorer) -> None:
    broken = Problem("b", Domain.CODE, "?", tests=("assert f(",), entry_point="f")
    nothing = Problem("n", Domain.MATH, "?")
    text = _completion("<think></think><answer>def f(x): return 1</answer>")
    rewards = scorer.score_batch([broken, nothing, CODE], [text] * 3, WEIGHTS)
    assert [reward.masked for reward in rewards] == [True, True, False]
    assert rewards[0].verdict.outcome is Outcome.VERIFIER_ERROR


def test_prefilled_thought_and_other_styles() -> None:
    with Scorer(think_prefilled=True) as prefilled:
        assert _total(prefilled, MATH, "a</think><answer>3</answer>") == pytest.approx(1.1)
    with Scorer(answer_style=AnswerStyle.BOXED) as boxed:
        assert _total(boxed, MATH, "so \\boxed{3}", {"accuracy": 1.0}) == 1.0


def test_equal_answers_are_judged_once(scorer: Scorer) -> None:
    text = "<think>{}</think><answer>def f(x):\n return x + 1 + 0</answer>"
    verdicts = scorer.verify_batch([CODE] * 5, [text.format(i) for i in range(5)])
    assert len({verdict.seconds for verdict in verdicts}) == 1
    assert {verdict.outcome for verdict in verdicts} == {Outcome.CORRECT}


def test_counter_counts_and_alarms(caplog: pytest.LogCaptureFixture) -> None:
    counter = VerdictCounter(alarm_share=0.05)
    good, bad = Verdict(Outcome.CORRECT), Verdict(Outcome.TIMEOUT, detail="no result in 5 s")
    with caplog.at_level(logging.WARNING):
        assert not counter.add([good] * 95 + [bad] * 5)
        assert counter.add([good] * 90 + [bad] * 10)
    assert counter.counts() == {"correct": 185, "wrong": 0, "unparsed": 0, "timeout": 15, "verifier_error": 0}
    assert counter.masked_share == pytest.approx(0.075)
    assert "no result in 5 s" in caplog.text


def test_time_is_removed_for_files() -> None:
    assert without_time(Verdict(Outcome.CORRECT, seconds=1.0)).seconds == 0.0
