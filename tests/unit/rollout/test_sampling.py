"""Drawing tokens: the right distribution, the right nucleus, the right recorded log-probability."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.rollout.sampling import _invert, blocks_of, pick_tokens, uniform_draws

LOGITS = torch.log(torch.tensor([0.5, 0.05, 0.3, 0.15]))


def _frequencies(temperature: float, top_p: float, draws: int = 20_000) -> torch.Tensor:
    uniform = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    tokens, _ = pick_tokens(LOGITS.expand(draws, -1), uniform, temperature, top_p)
    return torch.bincount(tokens, minlength=4) / draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_tempered_softmax(temperature):
    expected = torch.softmax(LOGITS / temperature, -1)
    torch.testing.assert_close(_frequencies(temperature, 1.0), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, [0]), (0.5, [0]), (0.51, [0, 2]), (0.9, [0, 2, 3]), (0.96, [0, 1, 2, 3])]
)
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, kept):
    probs = torch.softmax(LOGITS, -1)
    expected = torch.zeros(4)
    expected[kept] = probs[kept] / probs[kept].sum()
    torch.testing.assert_close(_frequencies(1.0, top_p), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (0.7, 0.6), (2.0, 0.9)])
def test_the_recorded_log_probability_is_tempered_and_over_the_whole_vocabulary(temperature, top_p):
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = pick_tokens(logits, uniform_draws(50, 1, 3)[:, 0], temperature, top_p)
    expected = torch.log_softmax(logits / temperature, -1)[torch.arange(50), tokens]
    torch.testing.assert_close(logprobs, expected)
    assert logprobs.dtype is torch.float32


def test_temperature_zero_takes_the_most_likely_token():
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = pick_tokens(logits, uniform_draws(20, 1, 3)[:, 0], 0.0, 1.0)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).max(-1).values)


@given(
    logits=st.lists(st.floats(-80, 80), min_size=2, max_size=12),
    draw=st.sampled_from([0.0, 5e-324, 0.25, 1 - 2**-53]),
    top_p=st.sampled_from([1.0, 0.95, 0.1, 1e-9]),
)
@settings(max_examples=200, deadline=None)
def test_no_draw_picks_a_token_of_no_probability(logits, draw, top_p):
    row = torch.tensor([logits])
    tokens, logprobs = pick_tokens(row, torch.tensor([draw], dtype=torch.float64), 1.0, top_p)
    assert (row - row.max()).exp()[
        0, tokens[0]
    ] > 0  # float32: below e^-103 of the largest there is no probability
    assert math.isfinite(logprobs[0])


def test_a_banned_token_is_never_drawn_at_either_end():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]])
    for draw in (0.0, 1 - 2**-53):
        tokens, _ = pick_tokens(logits, torch.tensor([draw], dtype=torch.float64), 1.0, 1.0)
        assert tokens.item() == 1


def test_draws_depend_on_the_seed_alone():
    assert torch.equal(uniform_draws(3, 4, 11), uniform_draws(3, 4, 11))
    assert not torch.equal(uniform_draws(3, 4, 11), uniform_draws(3, 4, 12))


@pytest.mark.parametrize(
    ("vocabulary", "blocks"), [(100, 1), (4096, 64), (49152, 192), (151936, 128), (4099, 1)]
)
def test_a_large_vocabulary_is_looked_up_by_blocks(vocabulary, blocks):
    assert blocks_of(vocabulary) == blocks
    assert vocabulary % blocks == 0


@pytest.mark.parametrize("spread", [0.0, 1.0, 20.0])
def test_blocks_draw_what_the_whole_cumulative_distribution_draws(spread):
    """The same tokens, apart from draws within rounding of a boundary (equal weights: neighbours)."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(64, 6144, generator=generator)
    draws = torch.cat(
        [
            torch.tensor([0.0, 5e-324, 1 - 2**-53], dtype=torch.float64),
            torch.rand(61, generator=generator).double(),
        ]
    )
    tokens, logprobs = pick_tokens(logits, draws, 1.0, 1.0)
    wanted = _invert(torch.softmax(logits, -1), draws)
    assert int((tokens != wanted).sum()) <= 1
    assert int((tokens - wanted).abs().max()) <= (1 if spread < 20 else 6143)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1))


def test_a_block_draw_never_lands_on_a_token_without_probability():
    logits = torch.full((5, 4096), -math.inf)
    logits[:, [70, 4000]] = 0.0
    tokens, logprobs = pick_tokens(
        logits, torch.tensor([0.0, 0.49, 0.51, 0.75, 1 - 2**-53], dtype=torch.float64), 1.0, 1.0
    )
    assert tokens.tolist() == [70, 70, 4000, 4000, 4000]
    torch.testing.assert_close(logprobs, torch.full((5,), -math.log(2)))
