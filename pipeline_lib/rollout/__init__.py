"""Sampling from a model: one protocol, three engines (docs/decisions/0006-rollout-engine.md, 0017-rollout-servers.md).

`torch` samples from a transformers module's own weights and is the default on a CPU; `vllm` runs vLLM in
this process and is the default on GPUs; `vllm_servers` samples on vLLM servers, here or on other hosts. Importing this package imports neither torch nor vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.errors import ConfigError
from pipeline_lib.rollout.protocol import Generator, GroupCallback, ProgressCallback, require_version
from pipeline_lib.startup import lean_imports

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline_lib.params import EngineParams

__all__ = [
    "Generator",
    "GroupCallback",
    "ProgressCallback",
    "build_generator",
    "open_generator",
    "require_version",
]


def build_generator(
    engine: EngineParams,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    weight_version: int = 0,
    switches: Mapping[str, bool] | None = None,
) -> Generator:
    """A sampler over `model` as it is now, for a trainer that goes on changing it.

    `torch` shares the module; `vllm` loads its weights into an engine of its own, `vllm_servers` into several.
    `switches` overrides fields of `SamplerSwitches`; ConfigError where the engine is not `torch`, which alone has them.
    """
    if engine.rollout == "torch":
        from pipeline_lib.rollout.slot_batch import SamplerSwitches
        from pipeline_lib.rollout.torch_generator import TorchGenerator

        chosen = SamplerSwitches(**(switches or {}))
        return TorchGenerator(model, tokenizer, weight_version=weight_version, switches=chosen)
    if switches:
        raise ConfigError(
            "sampling_switches", dict(switches), f"engine.rollout {engine.rollout} has none of them"
        )
    if engine.rollout == "vllm_servers":
        from pipeline_lib.rollout.servers.generator import ServersGenerator

        return ServersGenerator.from_model(engine, model, tokenizer, weight_version=weight_version)
    from pipeline_lib.rollout.vllm_generator import VllmGenerator

    return VllmGenerator.from_model(engine, model, tokenizer, weight_version=weight_version)


def open_generator(model_dir: Path | str, engine: EngineParams) -> Generator:
    """A sampler over the model directory `model_dir`. DataError when it holds no usable model."""
    from pipeline_lib.modeling import load_model, load_tokenizer, require_model_dir

    tokenizer = load_tokenizer(require_model_dir(model_dir))
    if engine.rollout == "torch":
        with lean_imports():
            from pipeline_lib.rollout.torch_generator import TorchGenerator

        return TorchGenerator(load_model(model_dir, engine.dtype), tokenizer)
    if engine.rollout == "vllm_servers":
        from pipeline_lib.rollout.servers.generator import ServersGenerator

        return ServersGenerator.from_directory(engine, Path(model_dir), tokenizer)
    from pipeline_lib.rollout.vllm_generator import VllmGenerator

    return VllmGenerator(engine, Path(model_dir), tokenizer)
