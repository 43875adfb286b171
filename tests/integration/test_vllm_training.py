"""A GRPO job whose rollouts come from vLLM, for real: DeepSpeed trains, vLLM samples, weights cross after every step.

The job is the program that stages launch, in a process of its own. That the weights really cross is seen from the
log-probabilities: the trainer compares its own with vLLM's on every token of every step, and the learning rate is so
large that one stale update would differ by far more than rounding.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from pipeline_lib.launch.job import describe
from pipeline_lib.launch.local import command, environment
from pipeline_lib.modeling import load_model
from pipeline_lib.training.spec import JobSpec
from tests.unit.training.tiny import build_world, grpo_spec, steps_sampled_alike

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
STEPS = 4
ROUNDING = 1e-3
"""Nats a token between vLLM's kernels and the trainer's, both float32."""


def _spec() -> JobSpec:
    vllm = {"kv_cache_gib": 0.25, "gpu_memory_utilization": 0.3, "max_model_len": 256, "enforce_eager": True}
    return grpo_spec(
        steps=STEPS,
        learning_rate=2e-3,
        group_size=8,
        max_new_tokens=40,
        engine={"rollout": "vllm", "vllm": vllm},
    )


def _start(root: Path) -> subprocess.Popen[bytes]:
    spec, folder = _spec(), root / "job"
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    job = describe(spec, root, folder)
    env = {**environment(job), "PYTHONPATH": str(ROOT)}
    env.pop("R1_MLFLOW_JOURNAL", None)
    with (root / "log").open("ab") as log:
        return subprocess.Popen(command(job), cwd=root, env=env, stdout=log, stderr=log)


def _finish(root: Path) -> None:
    process = _start(root)
    assert process.wait(timeout=600) == 0, (root / "log").read_text(encoding="utf-8")[-3000:]


def _world(root: Path) -> Path:
    """The tiny world with the shipped micro base: vLLM's CPU attention has no kernel for the tiny model's heads."""
    build_world(root)
    shutil.copytree(ROOT / "assets/micro/base", root / "models/base", dirs_exist_ok=True)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = _world(tmp_path_factory.mktemp("whole"))
    _finish(root)
    return root


def test_every_step_samples_from_the_weights_just_trained(trained: Path) -> None:
    rows = steps_sampled_alike(trained, STEPS, ROUNDING)
    assert sum(float(row["skipped_step"]) == 0 for row in rows) >= 2, "nothing was trained"
    before, after = load_model(trained / "models/base"), load_model(trained / "models/r1_zero")
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        moved = (before(tokens).logits.log_softmax(-1) - after(tokens).logits.log_softmax(-1)).abs().max()
    assert float(moved) > 100 * ROUNDING, "too small a step to tell a stale weight from rounding"


def test_a_killed_job_ends_with_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    _world(tmp_path)
    process = _start(tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "job" / "step-00000002").exists():
        assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _finish(tmp_path)
    for name in ("plot.csv", "rollouts.parquet", "models/r1_zero/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name
