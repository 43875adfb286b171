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


class SlurmParams(StrictModel):
    """What the `slurm` launcher asks sbatch for; other launchers do not read it. Ranks fill whole nodes.

    Unlike the rest of params.yaml it has defaults: where and for how long a job may run does not reach its result, nor
    its content key.
    """

    partition: str = Field("", description="Partition; empty: the cluster's default.")
    account: str = Field("", description="Account to charge; empty: the user's default.")
    gpus_per_node: int = Field(
        0,
        ge=0,
        description="GPUs, and so ranks, of a node; world_size is a multiple. 0: one CPU rank a node.",
    )
    time_limit_minutes: int = Field(0, ge=0, description="Time limit; 0: the partition's.")
    grace_seconds: int = Field(
        120,
        ge=0,
        le=65535,
        description="SIGTERM comes this long before the time limit; a step and a checkpoint must fit in. Slurm may send it "
        "a minute early.",
    )
    options: list[str] = Field(
        default_factory=list,
        description="More sbatch options, as in a script: ['--exclusive', '--constraint=h100'].",
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
    launcher: Name = Field(description="Where jobs start: a module of pipeline_lib/launch (local, slurm).")
    vllm: VllmParams
    slurm: SlurmParams = SlurmParams()
