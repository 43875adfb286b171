"""Reward models: what they read, that they learn, that a saved one scores the same."""

from __future__ import annotations

import pytest
import torch

from pipeline_lib.data.microworld.vocabulary import build_tokenizer
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.errors import DataError, NonFiniteError
from pipeline_lib.modeling import render_prompt
from pipeline_lib.training.distributed import World
from pipeline_lib.training.packing import Tree
from pipeline_lib.training.reward_model import (
    RewardModel,
    ScalarModel,
    _scores,
    _train_batch,
    helpfulness_task,
    safety_task,
    within,
)
from tests.unit.training.tiny import tiny_model


def _model() -> ScalarModel:
    model = ScalarModel(tiny_model())
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    return model


def test_the_score_is_read_at_the_last_token_of_each_response():
    model = _model()
    trees = [Tree((5, 6), ((7, 8, 9), (7,))), Tree((3,), ((4, 4),))]
    scores = model(trees)
    for score, ids in zip(scores, ([5, 6, 7, 8, 9], [5, 6, 7], [3, 4, 4]), strict=True):
        hidden = model.body.lm.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        torch.testing.assert_close(score, model.head(hidden)[0], atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_scores_are_the_same(tmp_path):
    model = RewardModel(_model(), build_tokenizer(), mean=0.3, std=2.0, answer_only=True)
    prompts, responses = ["a", "b"], ["<think>so</think><answer>1</answer>", "2"]
    scores = model.score(prompts, responses)
    model.save(tmp_path / "rm")
    assert RewardModel.load(tmp_path / "rm").score(prompts, responses) == pytest.approx(scores)
    assert all(0 < score < 1 for score in scores)
    (tmp_path / "rm" / "reward_head.safetensors").unlink()
    with pytest.raises(DataError, match="reward_head"):
        RewardModel.load(tmp_path / "rm")


def test_helpfulness_reads_the_answer_and_safety_the_whole():
    scalar = _model()
    answer = RewardModel(scalar, build_tokenizer(), mean=0.0, std=1.0, answer_only=True)
    whole = RewardModel(scalar, build_tokenizer(), mean=0.0, std=1.0, answer_only=False)
    texts = ["<think>so 1</think><answer>1</answer>", "<think>wait 2</think><answer>1</answer>"]
    assert len(set(answer.raw_scores(["q", "q"], texts))) == 1
    assert len(set(whole.raw_scores(["q", "q"], texts))) == 2


PAIRS = [
    PreferencePair(f"pair{i}", "q", good, bad, "x") for i, (good, bad) in enumerate(["ab", "cd", "ef", "gh"])
]
EXAMPLES = [SafetyExample(f"example{i}", "q", text, safe=True) for i, text in enumerate("abcd")]


def test_an_item_with_a_longer_prompt_and_response_than_allowed_is_left_out():
    tokenizer = build_tokenizer()
    pairs = [
        PreferencePair("longer chosen", "q", "1 2 3", "1", "x"),
        PreferencePair("longer rejected", "q", "1", "1 2 3", "x"),
    ]
    examples = [SafetyExample("longer", "q", "1 2 3", safe=True), SafetyExample("short", "q", "1", safe=True)]
    ids = (render_prompt(tokenizer, "q"), tokenizer("1 2 3", add_special_tokens=False)["input_ids"])
    longest = sum(map(len, ids))
    for task in (helpfulness_task(pairs, tokenizer), safety_task(examples, tokenizer)):
        assert within(task, longest) == list(task.items)
        assert [item.id for item in within(task, longest - 1)] == ["short"] * (task.name == "safety")


class _Saying:
    """An engine, or a model, that gives these scores."""

    world = World(0, 1, torch.device("cpu"))

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)

    def __call__(self, trees) -> torch.Tensor:
        assert len(trees) == len(self.scores)
        return self.scores


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("at", [4, 5])
def test_a_score_that_is_not_finite_names_its_pair(at: int, bad: float) -> None:
    task = helpfulness_task(PAIRS, build_tokenizer())
    said = [0.5] * 8
    said[at] = said[7] = bad
    for run in (
        lambda: _train_batch(_Saying(said), task, PAIRS, 1e-3),
        lambda: _scores(_Saying(said), task, PAIRS),
    ):
        with pytest.raises(NonFiniteError, match="helpfulness, example pair2: "):
            run()


def test_a_score_that_is_not_finite_names_its_example() -> None:
    task = safety_task(EXAMPLES, build_tokenizer())
    with pytest.raises(NonFiniteError, match="safety, example example3: "):
        _train_batch(_Saying([0.0, 1.0, 2.0, torch.nan]), task, EXAMPLES, 1e-3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_reward_that_is_not_finite_is_never_squashed_into_a_good_or_a_bad_one(bad: float) -> None:
    model = RewardModel(_model(), build_tokenizer(), mean=0.0, std=1.0, answer_only=False)
    model.model.head.bias.fill_(bad)
    assert all(score != score for score in model.score(["q"], ["a"]))
