"""Rules judge while other prompts sample: another moment, the same groups."""

from __future__ import annotations

import threading
from dataclasses import replace

from pipeline_lib.rewards.combine import Scorer
from pipeline_lib.rewards.registry import ScoreSettings
from pipeline_lib.rollout.torch_generator import TorchGenerator
from pipeline_lib.training.rollout_step import Sampler
from pipeline_lib.types import Domain, Problem, SamplingParams, Split

WEIGHTS = {"accuracy": 1.0, "format": 0.1, "overlong": 1.0}


def _problem(index: int) -> Problem:
    return Problem(
        id=f"p{index}",
        domain=Domain.MATH,
        prompt="q" * (index + 1),
        answer=str(index),
        source="test",
        split=Split.TRAIN,
    )


def test_judging_early_changes_only_when(qwen, tokenizer):
    problems = [_problem(index) for index in range(6)]
    generator = TorchGenerator(qwen, tokenizer, max_rows=8)
    sampling = SamplingParams(n=4, max_new_tokens=24)
    moments: list[tuple[bool, int]] = []
    handed_over = 0

    with Scorer(ScoreSettings(max_new_tokens=24, overlong_buffer=12)) as scorer:

        def score(asked, completions, weights, parts):
            moments.append((threading.current_thread() is threading.main_thread(), len(completions)))
            return scorer.score_batch(asked, completions, weights, parts)

        early = Sampler(
            generator, score, sampling, lambda text: tokenizer(text, add_special_tokens=False).input_ids
        )
        ways = []
        for sampler in (early, replace(early, judge_early=False)):
            handed_over = len(moments)
            ways.append(sampler.groups(problems, seed=3, version=0, weights=WEIGHTS, learned={}))
    assert ways[0] == ways[1]
    assert len({reward.total for group in ways[0] for reward in group.rewards}) > 1
    assert moments[:handed_over] == [(False, 4)] * 6
    assert moments[handed_over:] == [(True, 4)] * 6
