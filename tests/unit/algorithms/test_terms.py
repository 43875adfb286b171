"""Ratio and clip, KL, masks, aggregation, truncated importance sampling: values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.algorithms.aggregation import (
    Totals,
    constant_length,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from pipeline_lib.algorithms.importance import truncated_weight
from pipeline_lib.algorithms.kl import kl_divergence
from pipeline_lib.algorithms.masks import completion_mask, masked_mean, zero_padding
from pipeline_lib.algorithms.ratio import clipped_surrogate, importance_ratio

NAN, INF = torch.nan, torch.inf
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_completion_mask():
    mask = completion_mask(torch.tensor([0, 2, 3]), 3)
    assert mask.tolist() == [[False] * 3, [True, True, False], [True] * 3]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=6), st.integers(1, 2000))
def test_completion_mask_counts(lengths, width):
    mask = completion_mask(torch.tensor(lengths), width)
    assert mask.sum(1).tolist() == [min(length, width) for length in lengths]
    assert (mask[:, :-1] >= mask[:, 1:]).all()


def test_padding_never_reaches_a_number_or_a_gradient():
    values = torch.tensor([[1.0, 2.0, NAN], [3.0, INF, NAN]], requires_grad=True)
    total = zero_padding(values, MASK).sum()
    total.backward()
    assert total.item() == 6.0
    assert values.grad.tolist() == [[1, 1, 0], [1, 0, 0]]
    assert masked_mean(values, MASK).item() == 2.0
    assert masked_mean(values, torch.zeros_like(MASK)).item() == 0.0


def test_ratio_by_hand_and_one_on_padding():
    new = torch.log(torch.tensor([[0.2, 0.5, 1.0], [0.9, 1.0, 1.0]]))
    old = torch.log(torch.tensor([[0.1, 0.5, 1.0], [0.3, 1.0, 1.0]]))
    new[0, 2], old[1, 1] = NAN, -INF
    torch.testing.assert_close(
        importance_ratio(new, old, MASK), torch.tensor([[2.0, 1.0, 1.0], [3.0, 1.0, 1.0]])
    )


def test_ratio_of_an_impossible_token_stays_finite():
    ratio = importance_ratio(torch.tensor([[0.0]]), torch.tensor([[-1e4]]), torch.tensor([[True]]))
    assert ratio.item() == pytest.approx(math.exp(20.0))
    ratio = importance_ratio(torch.tensor([[-1e4]]), torch.tensor([[0.0]]), torch.tensor([[True]]))
    assert ratio.item() == pytest.approx(math.exp(-20.0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "clipped"),
    [
        (1.5, 1.0, 1.28, True),  # above the upper bound, wanted: capped
        (0.5, 1.0, 0.5, False),  # below, wanted: free to grow
        (1.5, -1.0, -1.5, False),  # above, unwanted: free to fall
        (0.5, -1.0, -0.8, True),  # below the lower bound, unwanted: capped
        (1.1, 2.0, 2.2, False),
        (0.9, -2.0, -1.8, False),
    ],
)
def test_clip_decides_per_side(ratio, advantage, objective, clipped):
    result = clipped_surrogate(torch.tensor([[ratio]]), torch.tensor([[advantage]]), 0.2, 0.28)
    assert result.objective_BT.item() == pytest.approx(objective)
    assert result.clipped_BT.item() is clipped


def test_clipped_tokens_have_no_gradient():
    ratio = torch.tensor([[1.5, 1.1]], requires_grad=True)
    clipped_surrogate(ratio, torch.tensor([[2.0]]), 0.2, 0.2).objective_BT.sum().backward()
    assert ratio.grad.tolist() == [[0.0, 2.0]]


def test_epsilon_ten_has_no_lower_bound():
    result = clipped_surrogate(torch.tensor([[1e-6, 12.0]]), torch.tensor([[-1.0, 1.0]]).T[:1], 10.0, 10.0)
    assert not result.clipped_BT.any()
    assert (
        clipped_surrogate(torch.tensor([[12.0]]), torch.tensor([[1.0]]), 10.0, 10.0).objective_BT.item()
        == 11.0
    )


def test_kl_estimators_by_hand():
    policy, reference = torch.log(torch.tensor([[0.5]])), torch.log(torch.tensor([[0.25]]))
    mask, d = torch.tensor([[True]]), math.log(0.5)
    assert kl_divergence(policy, reference, mask, "k1").item() == pytest.approx(-d)
    assert kl_divergence(policy, reference, mask, "k2").item() == pytest.approx(d * d / 2)
    assert kl_divergence(policy, reference, mask, "k3").item() == pytest.approx(0.5 - d - 1)


@pytest.mark.parametrize("name", ["", "k0", "k1x", "k2x", "k4"])
def test_an_unknown_estimator_is_refused(name):
    one = torch.zeros(1, 1)
    with pytest.raises(ValueError, match=f"'{name}' is unknown: use k1, k2 or k3"):
        kl_divergence(one, one, one == 0, name)


def test_kl_is_clamped_before_exp_and_zero_on_padding():
    policy = torch.tensor([[-1e5, NAN]], requires_grad=True)
    kl = kl_divergence(policy, torch.tensor([[0.0, NAN]]), torch.tensor([[True, False]]), "k3")
    assert kl[0, 0].item() == pytest.approx(math.exp(20.0) - 21, rel=1e-6)
    assert kl[0, 1].item() == 0.0
    kl.sum().backward()
    assert policy.grad.tolist() == [[0.0, 0.0]]


def test_k3_is_unbiased_and_never_negative():
    torch.manual_seed(0)
    policy, reference = torch.randn(50).log_softmax(-1), torch.randn(50).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    mask = torch.ones(1, 50, dtype=torch.bool)
    for name in ("k1", "k3"):
        estimate = kl_divergence(policy[None], reference[None], mask, name)[0]
        torch.testing.assert_close((policy.exp() * estimate).sum(), exact, rtol=1e-4, atol=1e-5)
    assert (kl_divergence(policy[None], reference[None], mask, "k3") >= 0).all()


VALUES = torch.tensor([[2.0, 4.0, 99.0], [5.0, 99.0, 99.0]])


def test_aggregations_by_hand():
    totals = Totals(sequences=2, tokens=3)
    assert sequence_mean(VALUES, MASK, totals).item() == pytest.approx((3.0 + 5.0) / 2)
    assert token_mean(VALUES, MASK, totals).item() == pytest.approx(11.0 / 3)
    assert constant_length(VALUES, MASK, totals, 10).item() == pytest.approx(11.0 / 20)
    assert sequence_sum(VALUES, MASK, totals).item() == pytest.approx(11.0 / 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 31, 4096]), min_size=1, max_size=4))
def test_extreme_lengths_keep_every_aggregation_exact(lengths):
    """Ones on the tokens, NaN elsewhere: an aggregation then counts, whatever the lengths."""
    mask = completion_mask(torch.tensor(lengths), 4096)
    ones = torch.where(mask, 1.0, NAN)
    totals = Totals(len(lengths), sum(lengths))
    answered = sum(length > 0 for length in lengths)
    assert sequence_mean(ones, mask, totals).item() == pytest.approx(answered / len(lengths))
    assert token_mean(ones, mask, totals).item() == pytest.approx(float(sum(lengths) > 0))
    assert constant_length(ones, mask, totals, 4096).item() == pytest.approx(
        sum(lengths) / len(lengths) / 4096
    )
    assert sequence_sum(ones, mask, totals).item() == pytest.approx(sum(lengths) / len(lengths))


def test_one_answer_of_one_token_is_not_divided():
    value, mask, one = torch.tensor([[3.0, 99.0]]), torch.tensor([[True, False]]), Totals(1, 1)
    assert sequence_mean(value, mask, one).item() == 3.0
    assert token_mean(value, mask, one).item() == 3.0
    assert constant_length(value, mask, one, 1).item() == 3.0
    assert sequence_sum(value, mask, one).item() == 3.0
    assert masked_mean(value, mask).item() == 3.0


def test_aggregations_of_an_empty_batch_are_zero():
    empty, totals = torch.zeros_like(MASK), Totals(0, 0)
    for value in (
        sequence_mean(VALUES, empty, totals),
        token_mean(VALUES, empty, totals),
        constant_length(VALUES, empty, totals, 5),
        sequence_sum(VALUES, empty, totals),
    ):
        assert value.item() == 0.0


def test_truncated_weight():
    new = torch.log(torch.tensor([[0.9, 0.1, 1.0]]))
    sampler = torch.log(torch.tensor([[0.3, 0.2, 1.0]]))
    sampler[0, 2] = NAN
    mask = torch.tensor([[True, True, False]])
    weight = truncated_weight(new.requires_grad_(), sampler, mask, 2.0)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.5, 1.0]]))
    assert not weight.requires_grad
