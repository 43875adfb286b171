"""Language reward: share of target-language words in the chain of thought (v2 B.6), added to the other rewards.

A language is recognised by its script, which tells English from Chinese but not from French. Numbers, symbols,
formulas and single Latin letters (variables) belong to no language; a chain of thought without words scores 1.
"""

from __future__ import annotations

from pipeline_lib.rewards.behaviour import language_share
from pipeline_lib.rewards.registry import RewardPart, Sample
from pipeline_lib.rewards.response import thought_of


def _score(sample: Sample) -> float:
    return language_share(thought_of(sample.response), sample.settings.language)


REWARD = RewardPart("language", _score)
