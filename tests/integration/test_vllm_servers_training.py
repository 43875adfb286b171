"""A GRPO job that samples on two vLLM servers which somebody else started, as on a cluster: by address and shared directory.

The servers are started as docs/operations.md says. The trainer compares its log-probabilities with theirs on every token
of every step, at a learning rate so large that one stale update would differ by far more than rounding. Then the trainer is
killed and started again, and last a server is killed under it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.launch.job import describe
from pipeline_lib.launch.local import command, environment
from pipeline_lib.rollout.servers.client import ServerClient, ServerFailed
from pipeline_lib.training.spec import JobSpec
from tests.unit.training.tiny import build_world, grpo_spec, steps_sampled_alike

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "assets/micro/base"
STEPS = 4
ROUNDING = 1e-3
"""Nats a token between vLLM's kernels and the trainer's, both float32."""


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two servers by address, started by hand; each leads a process group of its own."""
    started = {}
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = [sys.executable, "-m", "pipeline_lib.rollout.servers.command", str(BASE), "--port", str(port)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        started[f"127.0.0.1:{port}"] = subprocess.Popen(words, cwd=ROOT, env=env, start_new_session=True)
    try:
        for address, process in started.items():
            _await_version(address, process)
        yield started
    finally:
        for process in started.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_version(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 600
    while True:
        try:
            assert ServerClient(address).version(5) == "default"
            return
        except ServerFailed:
            assert process.poll() is None, "the server ended while starting"
            assert time.monotonic() < deadline
            time.sleep(0.5)


def _spec(root: Path, addresses: list[str]) -> JobSpec:
    vllm = {"kv_cache_gib": 0.25, "gpu_memory_utilization": 0.3, "max_model_len": 256, "enforce_eager": True}
    (root / "weights").mkdir(exist_ok=True)
    servers = {"addresses": addresses, "weights_dir": str(root / "weights"), "start_seconds": 15.0}
    return grpo_spec(
        steps=STEPS,
        learning_rate=2e-3,
        group_size=8,
        max_new_tokens=40,
        engine={"rollout": "vllm_servers", "vllm": vllm, "servers": servers},
    )


def _start(root: Path, addresses: list[str]) -> subprocess.Popen[bytes]:
    build_world(root)
    shutil.copytree(
        BASE, root / "models/base", dirs_exist_ok=True
    )  # vLLM has no CPU kernel for the tiny model
    spec, folder = _spec(root, addresses), root / "job"
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    job = describe(spec, root, folder)
    env = {**environment(job), "PYTHONPATH": str(ROOT)}
    env.pop("R1_MLFLOW_JOURNAL", None)
    with (root / "log").open("ab") as log:
        return subprocess.Popen(command(job), cwd=root, env=env, stdout=log, stderr=log)


def _log(root: Path) -> str:
    return (root / "log").read_text(encoding="utf-8")


def _await_checkpoint(root: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not (root / "job" / "step-00000002").exists():
        assert process.poll() is None, _log(root)[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def trained(servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    assert _start(root, list(servers)).wait(timeout=600) == 0, _log(root)[-3000:]
    return root


def test_every_step_samples_from_the_weights_just_trained(trained: Path, servers) -> None:
    rows = steps_sampled_alike(trained, STEPS, ROUNDING)
    trained_steps = sum(float(row["skipped_step"]) == 0 for row in rows)
    assert trained_steps >= 2, "nothing was trained"
    for address in servers:
        assert ServerClient(address).version(30) == str(trained_steps), "an update that did not arrive"
    assert not list((trained / "weights").iterdir()), "weights left behind"


def test_a_killed_trainer_ends_with_the_same_bytes(trained: Path, servers, tmp_path: Path) -> None:
    process = _start(tmp_path, list(servers))
    _await_checkpoint(tmp_path, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert _start(tmp_path, list(servers)).wait(timeout=600) == 0, _log(tmp_path)[-3000:]
    for name in ("plot.csv", "rollouts.parquet", "models/r1_zero/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name
    assert not list((tmp_path / "weights").iterdir()), "weights left behind"


def test_a_server_killed_in_mid_run_costs_no_sample(trained: Path, servers, tmp_path: Path) -> None:
    first, second = servers
    process = _start(tmp_path, list(servers))
    _await_checkpoint(tmp_path, process)
    os.kill(process.pid, signal.SIGSTOP)
    servers[first].kill()
    servers[first].wait()
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(timeout=600) == 0, _log(tmp_path)[-3000:]
    assert f"warning: rollout server 0: server {first}" in _log(tmp_path)
    steps_sampled_alike(tmp_path, STEPS, ROUNDING)

    servers[second].kill()
    servers[second].wait()
    shutil.rmtree(tmp_path / "job")
    assert _start(tmp_path, list(servers)).wait(timeout=600) != 0
    last = _log(tmp_path).strip().splitlines()[-1]
    assert "did not start" in last
    assert first in last
