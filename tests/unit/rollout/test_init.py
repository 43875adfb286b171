"""The package is light to import, and builds the engine that the parameters name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.modeling import save_model
from pipeline_lib.params import EngineParams
from pipeline_lib.rollout import build_generator, open_generator
from pipeline_lib.types import SamplingParams


@pytest.fixture
def engine() -> EngineParams:
    return EngineParams.model_validate(
        {
            "rollout": "torch",
            "world_size": 1,
            "zero_stage": 0,
            "dtype": "float32",
            "offload": "none",
            "threads": 1,
            "launcher": "local",
            "vllm": {
                "kv_cache_gib": 1,
                "gpu_memory_utilization": 0.5,
                "max_model_len": 128,
                "enforce_eager": True,
            },
        }
    )


def test_importing_the_package_imports_no_engine():
    code = "import sys, pipeline_lib.rollout; print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_a_directory_samples_what_its_model_does(tmp_path, engine, qwen, tokenizer, prompts):
    save_model(qwen, tokenizer, tmp_path / "m")
    ids, sampling = [str(i) for i in range(len(prompts))], SamplingParams(n=2, max_new_tokens=8)
    opened = open_generator(tmp_path / "m", engine).generate(prompts, ids, sampling, seed=1)
    built = build_generator(engine, qwen, tokenizer).generate(prompts, ids, sampling, seed=1)
    assert opened == built


def test_a_directory_without_weights_is_a_data_error(tmp_path, engine):
    with pytest.raises(DataError, match="no such model directory"):
        open_generator(tmp_path / "nothing", engine)


@pytest.mark.parametrize("rollout", ["vllm", "vllm_servers"])
def test_switches_of_the_torch_sampler_are_refused_where_another_samples(engine, qwen, tokenizer, rollout):
    switches = {"share_prompts": False}
    assert not build_generator(engine, qwen, tokenizer, switches=switches).switches.share_prompts
    other = engine.model_copy(update={"rollout": rollout})
    with pytest.raises(ConfigError, match=f"sampling_switches = .*engine.rollout {rollout} has none of them"):
        build_generator(other, qwen, tokenizer, switches=switches)
