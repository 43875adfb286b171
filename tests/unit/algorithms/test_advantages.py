"""Group-relative advantages: hand-computed values and properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.algorithms.advantages import centered, has_variance, zscore

REWARD = st.sampled_from([0.0, 0.1, 0.3, 1.0, 1.1, -1.0])
GROUPS = st.integers(2, 9).flatmap(
    lambda g: st.lists(
        st.tuples(st.lists(REWARD, min_size=g, max_size=g), st.lists(st.booleans(), min_size=g, max_size=g)),
        min_size=1,
        max_size=4,
    )
)


def _tensors(groups):
    return torch.tensor([r for r, _ in groups]), torch.tensor([s for _, s in groups])


def test_one_right_of_four_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    # mean 1/4; squares 9/16 + 3/16 = 3/4; over G - 1 = 3: variance 1/4, std 1/2.
    torch.testing.assert_close(zscore(rewards, rewards >= 0), torch.tensor([[1.5, -0.5, -0.5, -0.5]]))
    torch.testing.assert_close(centered(rewards, rewards >= 0), torch.tensor([[0.75, -0.25, -0.25, -0.25]]))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), st.data())
def test_one_right_of_any_group_size(size, data):
    """A lone right answer gets (G - 1) / sqrt(G) standard deviations, each wrong one -1 / sqrt(G)."""
    right = data.draw(st.integers(0, size - 1))
    rewards = torch.zeros(1, size)
    rewards[0, right] = 1.0
    expected = torch.full((1, size), -1 / size**0.5)
    expected[0, right] = (size - 1) / size**0.5
    torch.testing.assert_close(zscore(rewards, rewards >= 0), expected, rtol=1e-4, atol=1e-5)


def test_epsilon_is_added_to_the_std():
    rewards = torch.tensor([[0.0, 2e-8]])
    # mean 1e-8, std sqrt(2) * 1e-8: 1 / (sqrt(2) + 1).
    found = zscore(rewards, torch.ones_like(rewards, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[-0.41421356, 0.41421356]]))


def test_masked_sample_is_no_part_of_the_statistics():
    rewards = torch.tensor([[1.0, 0.0, 100.0]])
    signal = torch.tensor([[True, True, False]])
    root = 0.5 / 0.5**0.5
    torch.testing.assert_close(zscore(rewards, signal), torch.tensor([[root, -root, 0.0]]))


def test_masked_nan_is_ignored_but_a_judged_one_raises():
    rewards = torch.tensor([[1.0, 0.0, torch.nan]])
    assert torch.isfinite(zscore(rewards, torch.tensor([[True, True, False]]))).all()
    with pytest.raises(ValueError, match="NaN"):
        zscore(rewards, torch.tensor([[True, True, True]]))


@pytest.mark.parametrize("value", [0.1, 1.1, 1e-30, 12345.678])
@pytest.mark.parametrize("size", [2, 3, 7, 64])
def test_a_constant_group_is_exactly_zero(value, size):
    rewards = torch.full((1, size), value)
    signal = torch.ones_like(rewards, dtype=torch.bool)
    assert zscore(rewards, signal).eq(0).all()
    assert centered(rewards, signal).eq(0).all()
    assert not has_variance(rewards, signal).any()


@settings(max_examples=150, deadline=None)
@given(GROUPS)
def test_properties(groups):
    rewards, signal = _tensors(groups)
    scores = zscore(rewards, signal)
    live = has_variance(rewards, signal)
    assert scores[~signal].eq(0).all()
    assert scores[~live].eq(0).all()
    torch.testing.assert_close(scores.sum(1), torch.zeros(len(groups)), atol=1e-4, rtol=0)
    for row in range(len(groups)):
        judged = rewards[row][signal[row]]
        assert bool(live[row]) == (len(judged) > 1 and len(set(judged.tolist())) > 1)
        if live[row]:
            expected = (judged - judged.mean()) / (judged.std() + 1e-8)
            torch.testing.assert_close(scores[row][signal[row]], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                centered(rewards, signal)[row][signal[row]], judged - judged.mean(), atol=1e-6, rtol=1e-5
            )


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.floats(0.5, 4.0), st.floats(-3.0, 3.0))
def test_zscore_ignores_scale_and_shift(groups, scale, shift):
    rewards, signal = _tensors(groups)
    torch.testing.assert_close(
        zscore(rewards * scale + shift, signal), zscore(rewards, signal), atol=2e-3, rtol=2e-3
    )


def test_groups_do_not_see_each_other():
    rewards = torch.tensor([[1.0, 0.0], [5.0, 5.0]])
    signal = torch.ones_like(rewards, dtype=torch.bool)
    alone = zscore(rewards[:1], signal[:1])
    torch.testing.assert_close(zscore(rewards, signal)[:1], alone)
    assert zscore(rewards, signal)[1].eq(0).all()
