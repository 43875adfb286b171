"""The whole update against a plain one, and everything that must not change its gradient.

Covers: micro-batch budget, length sorting, prompt sharing, completion-only and chunked logits, skipped flat groups,
reused forward, world size 1 and 2, every ZeRO stage. Tolerances are for float32 sums in another order.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pipeline_lib.training import distributed
from pipeline_lib.training.distributed import join_world
from pipeline_lib.training.policy import Policy, Switches
from pipeline_lib.training.update import PolicyTrainer
from tests.unit.training.tiny import (
    engine_params,
    groups_of,
    grpo_params,
    on_ranks,
    plain_logprobs,
    tiny_model,
)

REWARDS = [
    [1.1, 0.0, 0.1, 0.0],
    [0.1, 0.1, 0.1, 0.1],  # flat
    [1.0, None, 0.0, 1.1],  # one masked
    [0.0, 1.0, 1.0, 0.1],
]


def _update(*args, **options):
    """`_updates` in a process of its own."""
    return on_ranks(1, lambda: _updates(*args, **options))[0]


def _shard_everything():
    """ZeRO-3 leaves weights of fewer than 100,000 elements whole on every rank: all of a tiny model's. Not in this process."""
    usual = distributed._offload
    distributed._offload = lambda engine: (
        usual(engine) | ({"stage3_param_persistence_threshold": 0} if engine.zero_stage == 3 else {})
    )


def _updates(
    params,
    switches=None,
    *,
    rewards=REWARDS,
    zero=0,
    offload="none",
    rounds=1,
    groups_seed=0,
    reference_anyway=False,
):
    """(stats, gradients before clipping or None, weights afterwards) of `rounds` updates on this rank's groups."""
    _shard_everything()
    engine = engine_params(zero_stage=zero, offload=offload)
    world = join_world(engine)
    model = tiny_model()
    groups = groups_of(model, rewards, seed=groups_seed)
    trainer = PolicyTrainer(model, params, engine, world, switches or Switches())
    if reference_anyway:
        trainer.reference = Policy(tiny_model(seed=1), trainer.switches).requires_grad_(False)
    captured = {}
    step = trainer.engine.step

    def recording(rate):
        if not captured and zero == 0:
            captured.update({name: p.grad.clone() for name, p in model.named_parameters()})
        return step(rate)

    trainer.engine.step = recording
    stats = [trainer.update(groups[world.rank :: world.size], 1e-3) for _ in range(rounds)]
    with trainer.engine.whole_weights():
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return stats, captured, weights


def _close(a, b, tolerance=2e-5):
    scale = max(float(value.abs().max()) for value in b.values())
    for name in b:
        torch.testing.assert_close(a[name], b[name], atol=tolerance * scale, rtol=2e-4)


@pytest.fixture(scope="module")
def baseline():
    return _update(grpo_params())


def test_the_gradient_is_that_of_the_equations(baseline):
    """GRPO on policy with equal old log-probabilities: -1/S sum_i A_i/|o_i| sum_t grad log pi."""
    model = tiny_model()
    groups = groups_of(model, REWARDS)
    total, sequences = torch.zeros(()), sum(r is not None for row in REWARDS for r in row)
    for group, row in zip(groups, REWARDS, strict=True):
        judged = torch.tensor([r for r in row if r is not None])
        if judged.max() == judged.min():
            continue
        for completion, reward in zip(group.completions, row, strict=True):
            if reward is not None:
                advantage = (reward - judged.mean()) / (judged.std() + 1e-8)
                logprobs = plain_logprobs(model, completion.prompt_ids, completion.token_ids)
                total = total - advantage * logprobs.mean() / sequences
    names = [name for name, _ in model.named_parameters()]
    wanted = dict(zip(names, torch.autograd.grad(total, list(model.parameters())), strict=True))
    _close(baseline[1], wanted)
    norm = torch.stack([g.norm() for g in wanted.values()]).norm()
    assert baseline[0][0].grad_norm == pytest.approx(float(norm), rel=1e-4)


SEVERAL_STEPS = {"minibatches": 2, "kl_coef": 0.01}
LOSS_TOLERANCE = 2e-6
VARIANTS = {
    "grpo on policy, no KL": {},
    "grpo": SEVERAL_STEPS,
    "dapo": {"algorithm": "dapo", "clip_high": 0.28, **SEVERAL_STEPS},
    "dr_grpo": {"algorithm": "dr_grpo", **SEVERAL_STEPS},
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    """(its parameters, its own update to compare with): two rollouts, so that the KL and the second steps count."""
    options = VARIANTS[request.param]
    plain = _update(grpo_params(**options), rounds=2)
    assert [stats.updates for stats in plain[0]] == [options.get("minibatches", 1)] * 2
    if options:
        assert abs(plain[0][1].loss) > 100 * LOSS_TOLERANCE, "too small a loss to tell another one from it"
        assert plain[0][1].kl > 0
    return options, plain


def _same_update(found, wanted):
    """Losses, norms and KL of every rollout; the first gradient; the weights in the end."""
    for here, there in zip(found[0], wanted[0], strict=True):
        assert here.updates == there.updates
        assert here.loss == pytest.approx(there.loss, abs=LOSS_TOLERANCE)
        assert here.grad_norm == pytest.approx(there.grad_norm, rel=1e-5)
        if there.kl:  # not asked for at a coefficient of 0, and then only measured with `skip_kl` off
            assert here.kl == pytest.approx(there.kl, abs=1e-6)
    _close(found[1], wanted[1])
    _close(found[2], wanted[2], 1e-4)


@pytest.mark.parametrize("budget", [1, 30, 100_000])
def test_micro_batch_budget_changes_nothing(variant, budget):
    options, plain = variant
    _same_update(_update(grpo_params(microbatch_tokens=budget, **options), rounds=2), plain)


@pytest.mark.parametrize("switch", list(Switches.__dataclass_fields__))
def test_each_switch_changes_nothing(variant, switch):
    options, plain = variant
    _same_update(_update(grpo_params(**options), Switches(**{switch: False}), rounds=2), plain)


def test_sorting_by_length_cuts_otherwise_and_changes_nothing(baseline):
    """Within 30 tokens a micro-batch: that the cuts differ is what makes the equal gradients worth something."""
    params = grpo_params(microbatch_tokens=30)
    cuts = []
    for by_length in (True, False):
        switches = Switches(length_sorted=by_length)
        _close(_update(params, switches)[1], baseline[1])
        cuts.append(on_ranks(1, lambda switches=switches: _rows_of_micro_batches(params, switches))[0])
    assert cuts[0] != cuts[1]
    assert sorted(row for rows in cuts[0] for row in rows) == sorted(row for rows in cuts[1] for row in rows)


def _rows_of_micro_batches(params, switches):
    engine = engine_params()
    model = tiny_model()
    trainer = PolicyTrainer(model, params, engine, join_world(engine), switches)
    return [micro.rows for micro in trainer._prepare(groups_of(model, REWARDS))[0]]


def test_flat_groups_are_not_computed(baseline):
    flat = sum(len(c.token_ids) for c in groups_of(tiny_model(), REWARDS)[1].completions)
    computed = _update(grpo_params(), Switches(skip_flat_groups=False))[0][0].trained_tokens
    assert computed - baseline[0][0].trained_tokens == flat


def test_flat_groups_keep_their_kl_gradient():
    with_kl = grpo_params(kl_coef=0.5, kl_estimator="k2")
    stats, _, _ = _update(with_kl, rewards=[[1.0, 1.0, 1.0, 1.0]], rounds=1)
    assert stats[0].updates == 1


def test_without_a_kl_coefficient_the_term_is_left_out_and_adds_nothing(baseline):
    """β 0 keeps no reference model. The plain path, 0 times the KL to another model, has the same gradient and measures a KL."""
    stats, gradient, _ = _update(grpo_params(), reference_anyway=True)
    _close(gradient, baseline[1])
    assert stats[0].kl > 0
    assert baseline[0][0].kl == 0


def test_a_step_without_signal_changes_no_weight():
    stats, _, weights = _update(grpo_params(), rewards=[[0.1] * 4, [None] * 4, [1.0, None, None, 1.0]])
    assert stats[0].updates == 0
    for name, parameter in tiny_model().named_parameters():
        assert torch.equal(weights[name], parameter)


@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "dr_grpo", "reinforce", "ppo"])
def test_minibatches_take_several_steps_of_every_algorithm(algorithm):
    stats, _, _ = _update(grpo_params(algorithm=algorithm, minibatches=2, kl_coef=0.01), rounds=2)
    assert [s.updates for s in stats] == [2, 2]
    assert all(torch.isfinite(torch.tensor([s.loss, s.grad_norm, s.kl])).all() for s in stats)


def test_sampler_and_trainer_agree_to_rounding(baseline):
    assert baseline[0][0].agreement.tokens > 0
    assert baseline[0][0].agreement.largest < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "minibatches"), [("grpo", 1), ("grpo", 2), ("ppo", 1), ("ppo", 2)])
def test_two_ranks_train_like_one(algorithm, minibatches):
    params = grpo_params(algorithm=algorithm, kl_coef=0.01, minibatches=minibatches)
    (alone,) = on_ranks(1, lambda: _updates(params, rounds=2))
    together = on_ranks(2, lambda: _updates(params, rounds=2))
    for stats, gradient, weights in together:
        _close(gradient, alone[1])
        assert stats[1].loss == pytest.approx(alone[0][1].loss, abs=1e-5)
        assert stats[1].grad_norm == pytest.approx(alone[0][1].grad_norm, rel=1e-3)
        assert stats[0].trained_tokens == alone[0][0].trained_tokens
        _close(weights, alone[2], 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("zero", "offload"), [(1, "none"), (2, "none"), (3, "none"), (2, "cpu"), (3, "cpu")])
def test_zero_stages_train_alike(zero, offload, ranks):
    params = grpo_params(kl_coef=0.01)
    (plain,) = on_ranks(1, lambda: _updates(params, rounds=3))
    sharded = on_ranks(ranks, lambda: _updates(params, zero=zero, offload=offload, rounds=3))[0]
    for a, b in zip(sharded[0], plain[0], strict=True):
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-3)
        assert a.loss == pytest.approx(b.loss, abs=1e-5)
    _close(sharded[2], plain[2], 1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("algorithm", "minibatches"), [("grpo", 2), ("ppo", 1)])
def test_sharded_ranks_with_different_numbers_of_micro_batches_do_not_wait_for_each_other(
    algorithm, minibatches
):
    """Under ZeRO-3 every forward is a collective; one rank has twice the samples of the other here, one a micro-batch."""
    rewards = [[1.1, 0.0, 0.1, 0.0], [1.0, None, None, 0.0]] * 2
    params = grpo_params(algorithm=algorithm, minibatches=minibatches, microbatch_tokens=1)
    (plain,) = on_ranks(1, lambda: _updates(params, rewards=rewards, rounds=2))
    sharded = on_ranks(2, lambda: _updates(params, rewards=rewards, zero=3, rounds=2))[0]
    _close(sharded[2], plain[2], 1e-4)


def _update_off_policy(shift, cap):
    """The gradient where another engine samples and says its tokens were `shift` nats likelier than the trainer does."""
    model = tiny_model()
    groups = [
        replace(
            group,
            completions=tuple(
                replace(c, logprobs=tuple(logprob + shift for logprob in c.logprobs))
                for c in group.completions
            ),
        )
        for group in groups_of(model, REWARDS)
    ]
    engine, params = engine_params(rollout="vllm"), grpo_params(importance_cap=cap)
    trainer = PolicyTrainer(model, params, engine, join_world(engine), Switches())
    captured = {}

    def capture(rate):
        captured.update({name: p.grad.clone() for name, p in model.named_parameters()})
        return 1.0

    trainer.engine.step = capture
    stats = trainer.update(groups, 1e-3)
    return captured, stats.agreement.largest


@pytest.mark.parametrize(("shift", "weight"), [(0.0, 1.0), (math.log(4), 0.25), (-math.log(4), 1.5)])
def test_another_samplers_tokens_weigh_what_truncated_importance_sampling_says(baseline, shift, weight):
    """min(pi / pi_sampler, 1.5): four times likelier there weighs a quarter, four times less likely only the cap."""
    gradient, largest = on_ranks(1, lambda: _update_off_policy(shift, 1.5))[0]
    _close(gradient, {name: weight * value for name, value in baseline[1].items()})
    assert largest == pytest.approx(abs(shift), abs=1e-4)


@pytest.mark.parametrize(("minibatches", "weight"), [(1, 1.0), (2, 0.5)])
def test_minibatches_bring_the_correction_and_one_on_policy_step_needs_none(minibatches, weight):
    """Sampler and trainer agree here, so a cap of 0.5 halves every gradient exactly where weights are applied."""
    free, capped = (
        _update(grpo_params(minibatches=minibatches, importance_cap=cap))[0][0].grad_norm
        for cap in (9.0, 0.5)
    )
    assert capped == pytest.approx(weight * free, rel=1e-2)


def _update_poisoned_alone(whose="policy", *, moved=False):
    """A token of one sample alone is NaN to one model: from the start, or (`moved`) from the first step on."""
    model = tiny_model("llama")
    groups = groups_of(model, REWARDS)
    poison = len(model.get_input_embeddings().weight) - 1
    spoilt = replace(groups[3].completions[2], token_ids=(poison, 5, 6), logprobs=(-1.0, -1.0, -1.0))
    completions = (*groups[3].completions[:2], spoilt, groups[3].completions[3])
    groups[3] = replace(groups[3], completions=completions)
    params = grpo_params(
        microbatch_tokens=100_000,
        algorithm="ppo" if whose == "critic" else "grpo",
        kl_coef=0.01 if whose == "reference" else 0.0,
        minibatches=1 + moved,
    )
    trainer = PolicyTrainer(model, params, engine_params(), join_world(engine_params()), Switches())
    step = trainer.engine.step
    spoilt_model = {
        "policy": lambda: model,
        "reference": lambda: trainer.reference.lm,
        "critic": lambda: trainer.critic.engine.module.body.lm,
    }[whose]()

    def spoil():
        with torch.no_grad():
            spoilt_model.get_input_embeddings().weight[poison] = torch.nan

    def stepping(rate):
        assert moved, "a step was taken"
        norm = step(rate)
        spoil()
        return norm

    trainer.engine.step = stepping
    if not moved:
        spoil()
    trainer.update(groups, 1e-3)


@pytest.mark.parametrize(
    ("whose", "said"),
    [
        ("policy", "the policy's log-probabilities"),
        ("reference", "the reference model's log-probabilities"),
        ("critic", "the critic's values"),
    ],
)
@pytest.mark.parametrize("moved", [False, True])
def test_nan_of_one_sample_names_exactly_that_sample(whose, said, moved):
    """Before any step, or before the step of the minibatch whose model has become NaN."""
    with pytest.raises(RuntimeError, match=f"NonFiniteError: problem p3, sample 2: {said} are not finite"):
        on_ranks(1, lambda: _update_poisoned_alone(whose, moved=moved))


def _update_poisoned():
    model = tiny_model()
    groups = groups_of(model, REWARDS)
    trainer = PolicyTrainer(model, grpo_params(), engine_params(), join_world(engine_params()), Switches())
    poison = groups[2].completions[0].token_ids[0]
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = torch.nan
    clean = [g for g in groups if all(poison not in (*c.prompt_ids, *c.token_ids) for c in g.completions)]
    trainer.update(clean + groups[2:3], 1e-3)


def test_nan_raises_at_once_and_names_problem_and_sample():
    # A tied head spreads the NaN over the vocabulary: the first problem of the micro-batch is named.
    with pytest.raises(RuntimeError, match=r"NonFiniteError: problem p\d, sample \d: "):
        on_ranks(1, _update_poisoned)
