"""PPO's critic against a plain one: advantages by GAE in python loops, the value loss by transformers' own forward."""

from __future__ import annotations

import pytest
import torch

from pipeline_lib.training.critic import GAMMA, LAMBDA, VALUE_CLIP
from pipeline_lib.training.distributed import join_world
from pipeline_lib.training.policy import Switches
from pipeline_lib.training.update import PolicyTrainer
from tests.unit.training.tiny import engine_params, groups_of, grpo_params, on_ranks, tiny_model

REWARDS = [[1.1, 0.0, 0.1, 0.0], [0.1, 0.1, 0.1, 0.1], [1.0, None, 0.0, 1.1]]


def _plain_values(body, head, completion) -> torch.Tensor:
    """The value at every token of a completion: what the hidden state says that predicts it."""
    ids = torch.tensor([[*completion.prompt_ids, *completion.token_ids]])
    hidden = body.model(input_ids=ids).last_hidden_state[0, len(completion.prompt_ids) - 1 : -1]
    return (hidden @ head.weight.T + head.bias).squeeze(-1)


def _plain_gae(reward: float, values: list[float]) -> list[float]:
    """A_t = sum_k (gamma lambda)^k (r_{t+k} + gamma V_{t+k+1} - V_{t+k}); the reward comes with the last token."""
    length = len(values)
    deltas = [
        (reward if t == length - 1 else 0.0) + GAMMA * (values[t + 1] if t + 1 < length else 0.0) - values[t]
        for t in range(length)
    ]
    return [sum((GAMMA * LAMBDA) ** k * deltas[t + k] for k in range(length - t)) for t in range(length)]


def _trainer():
    """(trainer, groups, every judged completion with its reward); the value head is not zero, as it is in a new critic."""
    engine, params = engine_params(), grpo_params(algorithm="ppo", microbatch_tokens=40)
    model = tiny_model()
    groups = groups_of(model, REWARDS)
    trainer = PolicyTrainer(model, params, engine, join_world(engine), Switches())
    head = trainer.critic.engine.module.head
    with torch.no_grad():
        head.weight.copy_(0.3 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(1)))
        head.bias.fill_(0.2)
    judged = [
        (completion, reward)
        for group, row in zip(groups, REWARDS, strict=True)
        for completion, reward in zip(group.completions, row, strict=True)
        if reward is not None
    ]
    return trainer, groups, judged


def _both():
    """(advantages here, plain), (gradient here, plain) of the first update, with a value head that is not zero."""
    trainer, groups, judged = _trainer()
    critic = trainer.critic
    value = critic.engine.module
    losses, plain = [], {}
    for index, (completion, reward) in enumerate(judged):
        values = _plain_values(value.body.lm, value.head, completion)
        advantages = _plain_gae(reward, values.tolist())
        returns = torch.tensor(advantages) + values.detach()
        losses.append(0.5 * (values - returns).square().sum())
        plain[index] = advantages
    flat = torch.tensor([a for row in plain.values() for a in row], dtype=torch.float64)
    whitened = (flat - flat.mean()) / flat.std(correction=0)
    parameters = {name: p for name, p in value.named_parameters() if p.requires_grad}
    wanted = torch.autograd.grad(sum(losses) / len(flat), list(parameters.values()))

    seen = {}

    def asking(critic_, micros):
        PolicyTrainer._ask_critic(trainer, critic_, micros)
        for micro in micros:
            for row, advantages_T, mask_T in zip(
                micro.rows, micro.advantages, micro.packed.mask_BT, strict=True
            ):
                seen[row] = advantages_T[mask_T].tolist()

    trainer._ask_critic = asking
    found = {}
    step = critic.engine.step

    def recording(rate):
        found.update({name: p.grad.clone() for name, p in parameters.items()})
        return step(rate)

    critic.engine.step = recording
    trainer.update(groups, 1e-3)
    here = torch.tensor([a for row in sorted(seen) for a in seen[row]], dtype=torch.float64)
    return here, whitened, found, dict(zip(parameters, wanted, strict=True))


@pytest.fixture(scope="module")
def both():
    return on_ranks(1, _both)[0]


def test_advantages_are_those_of_gae_whitened_over_all_tokens(both):
    here, plain, _, _ = both
    torch.testing.assert_close(here, plain, rtol=1e-4, atol=1e-5)
    assert plain.std() > 0.5


def test_the_gradient_of_the_value_loss_is_that_of_the_equations(both):
    _, _, found, wanted = both
    scale = max(float(value.abs().max()) for value in wanted.values())
    assert scale > 1e-3
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5 * scale)


def _after_a_move():
    """(gradient here, plain, share of tokens that are clipped) where the critic has moved since it was asked."""
    trainer, groups, judged = _trainer()
    critic = trainer.critic
    value = critic.engine.module
    old = [_plain_values(value.body.lm, value.head, completion).tolist() for completion, _ in judged]
    micros, totals = trainer._prepare(groups)
    assert len(micros) > 1
    trainer._ask_critic(critic, micros)
    with torch.no_grad():
        value.head.bias.sub_(0.4)
    total, clipped, tokens = torch.zeros(()), 0, 0
    for (completion, reward), before in zip(judged, old, strict=True):
        values = _plain_values(value.body.lm, value.head, completion)
        for v, v_old, advantage in zip(values, before, _plain_gae(reward, before), strict=True):
            wanted = advantage + v_old
            bounded = v_old + torch.clamp(v - v_old, -VALUE_CLIP, VALUE_CLIP)
            plain, kept_near = (v - wanted) ** 2, (bounded - wanted) ** 2
            total = total + 0.5 * torch.max(plain, kept_near)
            clipped += bool(kept_near > plain)
            tokens += 1
    parameters = {name: p for name, p in value.named_parameters() if p.requires_grad}
    wanted = torch.autograd.grad(total / tokens, list(parameters.values()))
    for index, micro in enumerate(micros):
        values_BT = critic.values(micro.packed)
        critic.backward(values_BT, micro.packed, micro.estimate, totals, last=index == len(micros) - 1)
    found = {name: p.grad.clone() for name, p in parameters.items()}
    return found, dict(zip(parameters, wanted, strict=True)), clipped / tokens


def test_once_the_critic_has_moved_its_loss_is_bounded_by_what_it_said_before():
    found, wanted, clipped = on_ranks(1, _after_a_move)[0]
    assert 0.05 < clipped < 0.95, clipped
    scale = max(float(value.abs().max()) for value in wanted.values())
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5 * scale)
