"""Every objective against an independent plain implementation: loss, gradient, and the cut into micro-batches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pipeline_lib.algorithms.aggregation import Totals
from pipeline_lib.algorithms.bradley_terry import bradley_terry_loss
from pipeline_lib.algorithms.dapo import keeps_group
from pipeline_lib.algorithms.objectives import OBJECTIVES, objective_named
from pipeline_lib.algorithms.policy import PolicySettings, PolicyTerms
from pipeline_lib.algorithms.safety import safety_loss
from pipeline_lib.algorithms.sft import sft_loss

SETTINGS = PolicySettings(0.2, 0.28, 0.05, "k3", 1.5, 9)
OF = {
    "this project's": SETTINGS,
    "the lesson's": PolicySettings(0.2, 0.2, 0.01, "k1", 2.0, 9),
    "v2's": PolicySettings(10.0, 10.0, 0.001, "k3", 2.0, 9),
    "k2": PolicySettings(0.2, 0.2, 0.5, "k2", 0.9, 9),
}
LENGTHS = [4, 1, 6, 3]


def _terms(seed: int = 0) -> PolicyTerms:
    g = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.arange(shape[1])[None] < torch.tensor(LENGTHS)[:, None]
    old = -torch.rand(shape, generator=g) * 3
    draw = lambda scale: (old + scale * torch.randn(shape, generator=g)).clamp(max=0)  # noqa: E731
    return PolicyTerms(
        draw(0.5).requires_grad_(),
        old,
        torch.tensor([[1.5], [-0.5], [-0.5], [-0.5]]),
        mask,
        draw(0.4),
        draw(0.6),
    )


def _plain(name: str, terms: PolicyTerms, s: PolicySettings) -> torch.Tensor:
    """The equations again, token by token, with python loops."""
    total = torch.zeros(())
    for i, length in enumerate(LENGTHS):
        answer = torch.zeros(())
        for t in range(length):
            new, old = terms.logprobs_BT[i, t], terms.old_logprobs_BT[i, t]
            a = terms.advantages_BT[i, t if terms.advantages_BT.shape[1] > 1 else 0]
            sampler = terms.sampler_logprobs_BT[i, t]
            d = terms.reference_logprobs_BT[i, t] - new
            kl = {"k1": -d, "k2": d * d / 2, "k3": torch.exp(d) - d - 1}[s.kl_estimator]
            if name == "reinforce":
                gain = a * new * min(torch.exp(new.detach() - sampler).item(), s.importance_cap)
            else:
                ratio = torch.exp(new - old)
                bounded = torch.clamp(ratio, 1 - s.clip_low, 1 + s.clip_high)
                gain = torch.min(ratio * a, bounded * a) * min(
                    torch.exp(old - sampler).item(), s.importance_cap
                )
            answer = answer - gain + s.kl_coef * kl
        if name == "grpo":
            total = total + answer / length / len(LENGTHS)
        elif name == "dr_grpo":
            total = total + answer / (len(LENGTHS) * s.max_tokens)
        elif name == "reinforce":
            total = total + answer / len(LENGTHS)
        else:
            total = total + answer / sum(LENGTHS)
    return total


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("of", OF)
def test_loss_and_gradient_equal_the_plain_implementation(name, seed, of):
    terms, settings = _terms(seed), OF[of]
    if objective_named(name).critic:  # one advantage a token
        drawn = torch.randn(terms.mask_BT.shape, generator=torch.Generator().manual_seed(seed))
        terms = replace(terms, advantages_BT=drawn)
    totals = Totals(len(LENGTHS), sum(LENGTHS))
    result = objective_named(name).loss(terms, settings, totals)
    plain = _plain(name, terms, settings)
    torch.testing.assert_close(result.loss, plain)
    (gradient,) = torch.autograd.grad(result.loss, terms.logprobs_BT)
    (expected,) = torch.autograd.grad(plain, terms.logprobs_BT)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().sum() > 0
    assert gradient[~terms.mask_BT].eq(0).all()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_micro_batches_add_up(name):
    terms, totals = _terms(), Totals(len(LENGTHS), sum(LENGTHS))
    whole = objective_named(name).loss(terms, SETTINGS, totals)
    parts = []
    for rows in ([0], [1, 2], [3]):
        part = replace(
            terms,
            **{f: getattr(terms, f)[rows] for f in PolicyTerms.__dataclass_fields__},
        )
        parts.append(objective_named(name).loss(part, SETTINGS, totals))
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    assert sum(int(part.clipped_tokens) for part in parts) == int(whole.clipped_tokens)
    torch.testing.assert_close(sum(part.kl_sum for part in parts), whole.kl_sum)


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("sides", [(0, 5), (5, 0), (2, 3)])
def test_padding_side_amount_and_content_change_nothing(name, sides):
    terms, totals = _terms(), Totals(len(LENGTHS), sum(LENGTHS))
    wide = {
        f: torch.nn.functional.pad(getattr(terms, f), sides, value=0 if f == "mask_BT" else torch.nan)
        for f in PolicyTerms.__dataclass_fields__
        if f != "advantages_BT"
    }
    padded = replace(terms, **wide)
    a = objective_named(name).loss(terms, SETTINGS, totals)
    b = objective_named(name).loss(padded, SETTINGS, totals)
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(a.kl_sum, b.kl_sum)
    assert int(a.clipped_tokens) == int(b.clipped_tokens)
    (plain,) = torch.autograd.grad(a.loss, terms.logprobs_BT)
    (found,) = torch.autograd.grad(b.loss, padded.logprobs_BT)
    torch.testing.assert_close(found[padded.mask_BT], plain[terms.mask_BT])
    assert found[~padded.mask_BT].eq(0).all()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_metrics_carry_no_gradient(name):
    result = objective_named(name).loss(_terms(), SETTINGS, Totals(len(LENGTHS), sum(LENGTHS)))
    assert result.loss.requires_grad
    assert not result.kl_sum.requires_grad
    assert not result.clipped_tokens.requires_grad
    assert result.kl_sum.shape == result.clipped_tokens.shape == ()


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_no_reference_and_no_sampler_drop_their_terms(name):
    terms, totals = _terms(), Totals(len(LENGTHS), sum(LENGTHS))
    bare = replace(terms, reference_logprobs_BT=None, sampler_logprobs_BT=None)
    same = replace(
        terms,
        reference_logprobs_BT=terms.logprobs_BT.detach(),
        sampler_logprobs_BT=terms.logprobs_BT.detach() if name == "reinforce" else terms.old_logprobs_BT,
    )
    a = objective_named(name).loss(bare, SETTINGS, totals)
    b = objective_named(name).loss(same, SETTINGS, totals)
    torch.testing.assert_close(a.loss, b.loss)
    assert a.kl_sum.item() == 0


def test_clipped_tokens_are_counted_without_padding():
    mask = torch.tensor([[True, True, False]])
    terms = PolicyTerms(torch.tensor([[1.0, 0.0, 5.0]]), torch.zeros(1, 3), torch.ones(1, 1), mask)
    assert int(objective_named("grpo").loss(terms, SETTINGS, Totals(1, 2)).clipped_tokens) == 1


def test_zero_advantages_give_exactly_no_gradient_without_kl():
    terms = replace(_terms(), advantages_BT=torch.zeros(4, 1), reference_logprobs_BT=None)
    for name in OBJECTIVES:
        loss = objective_named(name).loss(terms, SETTINGS, Totals(4, 14)).loss
        (gradient,) = torch.autograd.grad(loss, terms.logprobs_BT)
        assert gradient.eq(0).all()


def test_dynamic_sampling_keeps_groups_with_both_outcomes():
    rewards = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    signal = torch.tensor([[True, True], [True, True], [True, True], [True, False]])
    assert keeps_group(rewards, signal).tolist() == [True, False, False, False]


def test_unknown_algorithm_names_the_known():
    with pytest.raises(ValueError, match="grpo, dapo, dr_grpo, reinforce, ppo"):
        objective_named("a2c")


def test_only_ppo_has_a_critic_and_only_dapo_resamples():
    assert [name for name, o in OBJECTIVES.items() if o.critic] == ["ppo"]
    assert [name for name, o in OBJECTIVES.items() if o.dynamic_sampling] == ["dapo"]


def test_advantages_of_each_objective():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    spread = [
        OBJECTIVES[n].advantages(rewards, rewards >= 0)[0, 0].item()
        for n in ("grpo", "dapo", "dr_grpo", "reinforce")
    ]
    assert spread == pytest.approx([1.5, 1.5, 0.75, 0.75])


def test_sft_is_the_mean_over_response_tokens():
    mask = torch.tensor([[True, True], [True, False]])
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, torch.nan]])
    assert sft_loss(logprobs, mask, Totals(2, 3)).item() == pytest.approx(2.0)


def test_bradley_terry_by_hand():
    loss = bradley_terry_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]), 2)
    expected = (torch.log1p(torch.tensor(-2.0).exp()) + torch.log1p(torch.tensor(1.0).exp())) / 2
    assert loss.item() == pytest.approx(expected.item())


def test_losses_of_one_example_and_of_none():
    one, none = torch.tensor([0.0]), torch.tensor([])
    assert bradley_terry_loss(one, one, 1).item() == pytest.approx(math.log(2))
    assert safety_loss(one, one, 1).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(none, none, 0).item() == safety_loss(none, none, 0).item() == 0.0


def test_safety_by_hand():
    loss = safety_loss(torch.tensor([2.0, -1.0]), torch.tensor([True, True]), 2)
    expected = (torch.log1p(torch.tensor(-2.0).exp()) + torch.log1p(torch.tensor(1.0).exp())) / 2
    assert loss.item() == pytest.approx(expected.item())
    flipped = safety_loss(torch.tensor([2.0]), torch.tensor([False]), 1)
    assert flipped.item() == pytest.approx(torch.log1p(torch.tensor(2.0).exp()).item())
