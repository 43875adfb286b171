"""Soft overlong punishment (DAPO eq.13): 0 up to `limit - buffer` tokens, then a straight line to -1 at the limit.

A response that the limit cut scores -1 whatever the buffer.
"""

from __future__ import annotations

from pipeline_lib.rewards.registry import RewardPart, Sample


def overlong_penalty(tokens: int, limit: int, buffer: int, *, finished: bool) -> float:
    """In [-1, 0]. `limit` 0 means that no limit is known."""
    if limit <= 0:
        return 0.0
    if not finished or tokens > limit:
        return -1.0
    over = tokens - (limit - buffer)
    return -over / buffer if over > 0 else 0.0


def _score(sample: Sample) -> float:
    settings = sample.settings
    completion = sample.completion
    return overlong_penalty(
        len(completion.token_ids),
        settings.max_new_tokens,
        settings.overlong_buffer,
        finished=completion.finished,
    )


REWARD = RewardPart("overlong", _score)
