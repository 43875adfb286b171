"""GAE and the critic's loss, against a direct evaluation of the sums."""

from __future__ import annotations

import pytest
import torch

from pipeline_lib.algorithms.aggregation import Totals
from pipeline_lib.algorithms.gae import gae, terminal_rewards
from pipeline_lib.algorithms.ppo import value_loss

MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_terminal_rewards_stand_on_the_last_real_token():
    assert terminal_rewards(torch.tensor([2.0, 3.0]), MASK).tolist() == [[0, 0, 2], [0, 3, 0]]
    assert terminal_rewards(torch.tensor([2.0]), torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0, 0, 0]]


def test_an_answer_of_one_token_gets_its_reward_there():
    mask = torch.tensor([[True, False]])
    assert terminal_rewards(torch.tensor([2.0]), mask).tolist() == [[2, 0]]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_gae_equals_the_sum_it_stands_for(gamma, lam):
    torch.manual_seed(1)
    values = torch.randn(2, 3)
    values[1, 2] = torch.nan
    rewards = terminal_rewards(torch.tensor([1.0, -1.0]), MASK)
    advantages, returns = gae(rewards, values, MASK, gamma, lam)
    for row, length in enumerate((3, 2)):
        v = [*values[row, :length].tolist(), 0.0]
        delta = [rewards[row, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length))
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-6)
            assert returns[row, t].item() == pytest.approx(expected + v[t], abs=1e-6)
    assert advantages[1, 2].item() == 0.0
    assert returns[1, 2].item() == 0.0


def test_gae_sees_no_padding_on_either_side_and_has_no_gradient():
    values, rewards = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, 2.0]])
    whole = gae(rewards, values, torch.ones(1, 2, dtype=torch.bool), 0.9, 0.8)
    mask = torch.tensor([[False, True, True, False]])
    wide = [torch.nn.functional.pad(x, (1, 1), value=torch.nan) for x in (rewards, values)]
    padded = gae(wide[0], wide[1].requires_grad_(), mask, 0.9, 0.8)
    for a, b in zip(padded, whole, strict=True):
        assert not a.requires_grad
        assert torch.equal(a[:, 1:3], b)
        assert a[~mask].eq(0).all()


def test_value_loss_sends_no_gradient_to_padding():
    mask, totals = torch.tensor([[True, False]]), Totals(1, 1)
    values = torch.tensor([[1.0, torch.nan]], requires_grad=True)
    old, returns = torch.tensor([[1.0, torch.nan]]), torch.tensor([[0.0, torch.nan]])
    loss = value_loss(values, old, returns, mask, 0.2, totals)
    loss.backward()
    assert loss.item() == 0.5
    assert values.grad.tolist() == [[1.0, 0.0]]


def test_value_loss_takes_the_worse_of_plain_and_clipped():
    mask, totals = torch.tensor([[True, True]]), Totals(1, 2)
    # First: moved from 0 to 1, clipped to 0.2, target 1: plain 0, clipped 0.64. Second: moved 0.1, not clipped.
    loss = value_loss(
        torch.tensor([[1.0, 0.1]]), torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), mask, 0.2, totals
    )
    assert loss.item() == pytest.approx((0.64 + 0.01) / 2 / 2)
