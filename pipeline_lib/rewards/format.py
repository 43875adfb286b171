"""Format reward: 1 when the whole response has the designated form, else 0 (L ch.1; weight 0.1 there, 1 in v2).

A full match, not a search: text after the answer, a second answer, nested or repeated tags all score 0.
"""

from __future__ import annotations

from pipeline_lib.rewards.registry import RewardPart, Sample
from pipeline_lib.rewards.response import is_well_formed


def _score(sample: Sample) -> float:
    return float(is_well_formed(sample.response))


REWARD = RewardPart("format", _score)
