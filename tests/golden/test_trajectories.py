"""Pinned trajectories: loss and gradient norm of three updates per algorithm, float32 on a CPU.

A change here means that training changed. Change the numbers only together with the reason, in the same commit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib.training.distributed import join_world
from pipeline_lib.training.policy import Switches
from pipeline_lib.training.update import PolicyTrainer
from tests.unit.training.tiny import engine_params, groups_of, grpo_params, on_ranks, tiny_model

REWARDS = [[1.1, 0.0, 0.1, 0.0], [0.1, 0.1, 0.1, 0.1], [1.0, None, 0.0, 1.1], [0.0, 1.0, 1.0, 0.1]]
FILE = Path(__file__).parent / "trajectories.json"


SETTINGS = {
    **{name: {"algorithm": name} for name in ("grpo", "dapo", "dr_grpo", "reinforce", "ppo")},
    "grpo of the lesson": {"algorithm": "grpo", "clip_high": 0.2, "kl_estimator": "k1"},
    "grpo of v2": {"algorithm": "grpo", "clip_low": 10.0, "clip_high": 10.0},
}


def trajectory(name: str) -> list[list[float]]:
    """[loss, gradient norm, KL, clip share] of three rollouts of two minibatches each."""
    plain = {
        "minibatches": 2,
        "kl_coef": 0.02,
        "clip_high": 0.28,
        "learning_rate": 5e-3,
        "importance_cap": 1.1,
    }
    params = grpo_params(**{**plain, **SETTINGS[name]})
    model = tiny_model()
    trainer = PolicyTrainer(model, params, engine_params(), join_world(engine_params()), Switches())
    rows = []
    for seed in range(3):
        stats = trainer.update(groups_of(model, REWARDS, seed=seed), params.learning_rate)
        rows.append([stats.loss, stats.grad_norm, stats.kl, stats.clip_share])
    return rows


@pytest.mark.parametrize("name", SETTINGS)
def test_trajectory(name):
    pinned = json.loads(FILE.read_text())["cpu-float32"][name]
    (found_rows,) = on_ranks(1, lambda: trajectory(name))
    for found, wanted in zip(found_rows, pinned, strict=True):
        assert found == pytest.approx(wanted, rel=2e-3, abs=2e-5)


def test_the_algorithms_really_differ():
    pinned = json.loads(FILE.read_text())["cpu-float32"]
    norms = [rows[0][1] for rows in pinned.values()]
    assert len({round(norm, 4) for norm in norms}) == len(norms)
