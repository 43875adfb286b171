"""The command line of a server, and the parameters behind it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from pydantic import ValidationError

from pipeline_lib.params import ServersParams
from pipeline_lib.rollout.servers.command import ROOT, command, environment
from pipeline_lib.training.spec import JobSpec
from tests.unit.training.tiny import engine_params


def test_a_server_serves_what_the_trainer_trains() -> None:
    words = command(engine_params(dtype="bfloat16"), "m", "10.0.0.1", 8000, on_gpu=True)
    told = dict(itertools.pairwise(words))
    assert told["--dtype"] == "bfloat16"
    assert told["--max-model-len"] == "256"
    assert told["--host"] == "10.0.0.1"
    assert told["--logprobs-mode"] == "processed_logprobs"
    assert "--kv-cache-memory-bytes" not in words
    assert "--kv-cache-memory-bytes" in command(engine_params(), "m", "127.0.0.1", 1, on_gpu=False)


def test_vllm_finds_the_plugin_on_the_path() -> None:
    code = "from importlib.metadata import entry_points as e; print([p.value for p in e(group='vllm.endpoint_plugins', name='r1_rollout')])"
    path = environment(on_gpu=False)["PYTHONPATH"]
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    ).stdout
    assert found.strip() == "['pipeline_lib.rollout.servers.routes:RolloutRoutes']"
    assert (ROOT / "pipeline_lib/rollout/servers/routes.py").is_file()


def test_addresses_need_a_shared_directory_and_are_named_once() -> None:
    with pytest.raises(ValidationError, match=r"weights_dir is empty; name a directory"):
        ServersParams(addresses=["a:1"])
    with pytest.raises(ValidationError, match="a:1 is named twice"):
        ServersParams(addresses=["a:1", "a:1"], weights_dir="/w")
    assert ServersParams(addresses=["a:1", "b:1", "c:1"], weights_dir="/w").total == 3


def test_how_many_servers_is_part_of_a_jobs_key_and_where_they_are_is_not(tmp_path) -> None:
    (tmp_path / "m").write_text("model")

    def key(rollout: str, **servers: object) -> str:
        engine = engine_params(rollout=rollout, servers=ServersParams(**servers)).model_dump(mode="json")
        return JobSpec("grpo", "s", 1, {}, engine, {"model": "m"}, {}).content_key(tmp_path)

    two = key("vllm_servers", count=2)
    assert two == key("vllm_servers", addresses=["a:1", "b:1"], weights_dir="/w")
    assert two != key("vllm_servers", count=4)
    assert key("vllm", count=2) == key("vllm", count=4)
