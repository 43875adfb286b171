"""Repetition penalty: minus the share of phrases of n words that the response has already used. In [-1, 0]."""

from __future__ import annotations

from pipeline_lib.rewards.behaviour import repetition_share
from pipeline_lib.rewards.registry import RewardPart, Sample


def _score(sample: Sample) -> float:
    return -repetition_share(sample.response, sample.settings.repetition_ngram)


REWARD = RewardPart("repetition", _score)
