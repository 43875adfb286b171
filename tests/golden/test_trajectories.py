"""Pinned trajectories: loss and gradient norm of three updates per algorithm, on a CPU in float32 and in bfloat16.

A change here means that training changed. Change the numbers only together with the reason, in the same commit:

    python -m tests.golden.test_trajectories cpu-bfloat16       # writes that kind's numbers into trajectories.json

The same command pins a GPU's (`cuda-float32`, `cuda-bfloat16`), where there is one. None has been pinned yet.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
ENGINES = {
    "cpu-float32": {},
    "cpu-bfloat16": {"dtype": "bfloat16", "zero_stage": 2},
    "cuda-float32": {},
    "cuda-bfloat16": {"dtype": "bfloat16", "zero_stage": 2},
}
"""By device and precision. In bfloat16 with ZeRO-2, as the profiles that use it: its master weights are float32."""
TOLERANCES = {
    "float32": [{"rel": 2e-3, "abs": 2e-5}] * 4,
    "bfloat16": [{"rel": 0.05, "abs": 0.01}, {"rel": 0.08}, {"rel": 0.1, "abs": 0.015}, {"abs": 0.025}],
}
"""Of loss, gradient norm, KL and clip share. The same CPU gives the same bits in both. bfloat16 leaves room for sums in
another order: without prompt sharing the norm moves by up to 6 %, the KL by
0.012, and one token or two are clipped otherwise."""


def trajectory(kind: str, name: str, switches: Switches | None = None) -> list[list[float]]:
    """[loss, gradient norm, KL, clip share] of three rollouts of two minibatches each."""
    plain = {
        "minibatches": 2,
        "kl_coef": 0.02,
        "clip_high": 0.28,
        "learning_rate": 5e-3,
        "importance_cap": 1.1,
    }
    params, engine = grpo_params(**{**plain, **SETTINGS[name]}), engine_params(**ENGINES[kind])
    world = join_world(engine)
    model = tiny_model().to(device=kind.partition("-")[0], dtype=getattr(torch, engine.dtype))
    trainer = PolicyTrainer(model, params, engine, world, switches or Switches())
    rows = []
    for seed in range(3):
        sampler = copy.deepcopy(model).to(device="cpu", dtype=torch.float32)
        stats = trainer.update(groups_of(sampler, REWARDS, seed=seed), params.learning_rate)
        rows.append([stats.loss, stats.grad_norm, stats.kl, stats.clip_share])
    return rows


def _found(kind: str, names: list[str]) -> dict[str, list[list[float]]]:
    """Computed now. On a GPU in one process that forks no other: CUDA survives no fork."""
    if kind.startswith("cuda"):
        return {name: trajectory(kind, name) for name in names}
    return {name: on_ranks(1, lambda name=name: trajectory(kind, name))[0] for name in names}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ENGINES)
def test_trajectory(kind, name):
    pinned = json.loads(FILE.read_text()).get(kind)
    how = f"python -m tests.golden.test_trajectories {kind}"
    if kind.startswith("cuda"):
        if pinned is None or not Path("/dev/nvidia0").exists():
            pytest.skip(f"no GPU here, or none has been pinned: `{how}` on a machine with one does it")
        command = [sys.executable, *how.split()[1:], "--only", name]
        said = subprocess.run(command, cwd=FILE.parents[2], capture_output=True, text=True, check=True)
        found_rows = json.loads(said.stdout.splitlines()[-1])[name]
    else:
        found_rows = _found(kind, [name])[name]
    tolerances = TOLERANCES[kind.partition("-")[2]]
    for found, wanted in zip(found_rows, pinned[name], strict=True):
        for value, expected, tolerance in zip(found, wanted, tolerances, strict=True):
            assert value == pytest.approx(expected, **tolerance)


@pytest.mark.parametrize("kind", json.loads(FILE.read_text()))
def test_the_algorithms_really_differ(kind):
    pinned = json.loads(FILE.read_text())[kind]
    norms = [rows[0][1] for rows in pinned.values()]
    assert len({round(norm, 4) for norm in norms}) == len(norms)


def main() -> None:
    """Pin one kind anew, or print one trajectory of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.test_trajectories", description=__doc__)
    parser.add_argument("kind", choices=ENGINES)
    parser.add_argument("--only", choices=SETTINGS, help="print this trajectory, as JSON, and write nothing")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(_found(arguments.kind, [arguments.only])))
        return
    rounded = {
        name: [[float(f"{value:.6g}") for value in row] for row in rows]
        for name, rows in _found(arguments.kind, list(SETTINGS)).items()
    }
    pinned = json.loads(FILE.read_text())
    FILE.write_text(json.dumps({**pinned, arguments.kind: rounded}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
