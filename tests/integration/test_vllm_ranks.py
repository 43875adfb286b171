"""A GRPO job of two ranks, each with a vLLM engine of its own in its process, on the CPU.

The trainer compares its log-probabilities with vLLM's on every token: an engine that did not get its rank's weights, at the
start or at a step, differs by far more than rounding.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline_lib.launch import run_job
from tests.unit.training.tiny import build_world, grpo_spec, steps_sampled_alike

BASE = Path(__file__).resolve().parents[2] / "assets/micro/base"
STEPS = 3
ROUNDING = 1e-3
"""Nats a token between vLLM's kernels and the trainer's, both float32."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", [2, 3])
def test_two_ranks_sample_from_the_weights_just_trained(tmp_path, monkeypatch, zero):
    monkeypatch.chdir(tmp_path)
    build_world(tmp_path)
    # vLLM has no CPU kernel for the tiny model.
    shutil.copytree(BASE, tmp_path / "models/base", dirs_exist_ok=True)
    vllm = {"kv_cache_gib": 0.25, "gpu_memory_utilization": 0.3, "max_model_len": 256, "enforce_eager": True}
    spec = grpo_spec(
        steps=STEPS,
        learning_rate=2e-3,
        group_size=8,
        max_new_tokens=40,
        engine={"rollout": "vllm", "vllm": vllm, "world_size": 2, "zero_stage": zero},
    )
    assert run_job(spec)["steps"] == STEPS
    steps_sampled_alike(tmp_path, STEPS, ROUNDING)


def test_an_engine_is_on_its_ranks_device(monkeypatch):
    from pipeline_lib.rollout.vllm_device import OwnDeviceExecutor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    executor = OwnDeviceExecutor.__new__(OwnDeviceExecutor)
    executor.vllm_config = SimpleNamespace(device_config=SimpleNamespace(device=torch.device("cuda")))
    assert executor._distributed_args()[1:] == (0, 3)
