"""Sections that every stage shares: the run and the engine it runs on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline_lib.params._base import Fraction, Name, PositiveFloat, PositiveInt, StrictModel


class RunParams(StrictModel):
    """What names a run and makes it repeatable."""

    profile: Name = Field(description="The overlay these parameters came from (profiles/<name>.yaml).")
    seed: int = Field(ge=0, le=2**31 - 1, description="Every random choice of the pipeline follows from it.")
    target_language: Literal["en", "zh"] = Field(
        description="The language a chain of thought should keep to (v2 B.6)."
    )


class VllmParams(StrictModel):
    """Settings handed to vLLM; unused by the `torch` rollout."""

    kv_cache_gib: PositiveFloat = Field(
        description="Memory for the KV cache on a CPU, in GiB (VLLM_CPU_KVCACHE_SPACE)."
    )
    gpu_memory_utilization: Fraction = Field(
        description="Share of GPU memory vLLM may take when colocated with the trainer."
    )
    max_model_len: PositiveInt = Field(description="Prompt + completion tokens.")
    enforce_eager: bool = Field(
        description="True: no compilation or CUDA graphs; starts faster, samples slower."
    )


class EngineParams(StrictModel):
    """How models are sampled and trained. Changing it changes speed, and float rounding."""

    rollout: Literal["torch", "vllm"] = Field(
        description="Sampler. `torch`: the KV-cache sampler of pipeline_lib.rollout, fastest on CPU for small models; "
        "`vllm`: the default on GPUs (docs/decisions/0006)."
    )
    world_size: PositiveInt = Field(description="Trainer processes (ranks).")
    zero_stage: Literal[0, 1, 2, 3] = Field(description="DeepSpeed ZeRO stage.")
    dtype: Literal["float32", "bfloat16"] = Field(
        description="Training precision; bfloat16 needs hardware for it."
    )
    offload: Literal["none", "cpu"] = Field(description="Where DeepSpeed keeps optimizer state.")
    threads: int = Field(ge=0, description="Torch threads per process; 0 = cores // world_size.")
    launcher: Name = Field(description="Where jobs start: a module of pipeline_lib/launch (local).")
    vllm: VllmParams
