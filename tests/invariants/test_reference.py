"""The reference model: what the KL term keeps the policy near, and when it is copied anew (v2: every 400 steps)."""

from __future__ import annotations

import csv

import torch

from pipeline_lib.training.distributed import join_world
from pipeline_lib.training.policy import Switches
from pipeline_lib.training.update import PolicyTrainer
from tests.unit.training.tiny import (
    build_world,
    engine_params,
    finish_job,
    groups_of,
    grpo_params,
    grpo_spec,
    on_ranks,
    tiny_model,
)

REWARDS = [[1.1, 0.0, 0.1, 0.0], [0.0, 1.0, 1.0, 0.1]]


def _same(trainer: PolicyTrainer) -> bool:
    assert trainer.reference is not None
    with trainer.engine.whole_weights():
        pairs = zip(trainer.reference.lm.parameters(), trainer.lm.parameters(), strict=True)
        return all(torch.equal(old, new) for old, new in pairs)


def _refreshed(zero: int) -> list[bool]:
    """Whether reference and policy are equal: at the start, after an update, after a refresh, after another update."""
    engine = engine_params(zero_stage=zero)
    model = tiny_model()
    groups = groups_of(model, REWARDS)
    trainer = PolicyTrainer(model, grpo_params(kl_coef=0.1), engine, join_world(engine), Switches())
    seen = [_same(trainer)]
    trainer.update(groups, 1e-2)
    seen.append(_same(trainer))
    trainer.refresh_reference()
    seen.append(_same(trainer))
    trainer.update(groups, 1e-2)
    return [*seen, _same(trainer)]


def test_the_reference_stays_until_it_is_refreshed_and_is_the_policy_then():
    assert on_ranks(1, lambda: _refreshed(0)) == [[True, False, True, False]]
    assert on_ranks(1, lambda: _refreshed(3)) == [[True, False, True, False]]


def test_a_job_refreshes_its_reference_every_so_many_steps(tmp_path):
    """In the step after a refresh policy and reference are one model: the KL of its first forward pass is 0."""
    build_world(tmp_path)
    spec = grpo_spec(steps=7, kl_coef=0.001, learning_rate=1e-2, reference_refresh_steps=3)
    finish_job(tmp_path, spec)
    with (tmp_path / "plot.csv").open(encoding="utf-8") as file:
        kl = [float(row["kl"]) for row in csv.DictReader(file)]
    assert [step for step, value in enumerate(kl) if value < 1e-6] == [0, 3, 6], kl
