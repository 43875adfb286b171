"""What a reinforcement-learning stage needs, on paper: memory of a GPU, seconds of a step, hours, dollars.

Pure functions of a model's shape, a cluster and a stage's parameters; `docs/capacity.md` derives each formula and holds it
against the published run and against measurements. Nothing here is read by a stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

TRAIN_SHARE = 0.3
"""Of a GPU's peak that training reaches (MFU)."""
BANDWIDTH_SHARE = 0.5
"""Of a GPU's memory bandwidth that decoding reaches."""
HOP_SECONDS = 1e-4
"""Of communication a layer and token position costs a model that is spread over several GPUs (two all-to-alls)."""
MEAN_SHARE = 0.2
"""Mean response as a share of the limit. Published for stage 3: 5,355 of 32,768 (v2 Table 5)."""
ACTIVATION_BYTES = 34
"""Kept a token, layer and hidden unit for a backward pass, bf16 (Korthikanti et al. 2022, eq. 2, without the T^2 part)."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model's shape."""

    parameters: float
    active: float
    """Parameters a token passes through: fewer than all in a mixture of experts."""
    layers: int
    hidden: int
    cache_bytes: float
    """KV cache of a token, all layers."""
    rollout_bytes: float = 2.0
    """A weight in the inference engine."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator."""

    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second."""
    peak: float
    """bf16 operations a second, dense."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal GPUs at a price."""

    gpu: Gpu
    gpus: int
    dollars_per_gpu_hour: float = 2.0


@dataclass(frozen=True, slots=True)
class Rollout:
    """A stage's step: one rollout, and the updates from it."""

    samples: int
    max_tokens: int
    mean_tokens: float
    reference: bool
    """A KL term: the reference model's forward."""
    minibatches: int
    """More than one: another forward for the old log-probabilities."""

    @property
    def tokens(self) -> float:
        """Completion tokens of a step."""
        return self.samples * self.mean_tokens


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where a step's time goes."""

    longest: float
    """Sampling: every position up to the longest completion reads the weights once, however few completions are left."""
    sampling: float
    """Sampling: what each token costs on top."""
    training: float

    @property
    def total(self) -> float:
        """Of a step."""
        return self.longest + self.sampling + self.training


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu(80e9, 2.0e12, 312e12),
    "h100": Gpu(80e9, 3.35e12, 989e12),
    "h200": Gpu(141e9, 4.8e12, 989e12),
    "h800": Gpu(80e9, 3.35e12, 989e12),
}
MODELS: Mapping[str, Model] = {
    # 61 layers of latent attention: 512 + 64 values a token and layer. Its weights are FP8 as published.
    "deepseek-ai/DeepSeek-V3-Base": Model(671e9, 37e9, 61, 7168, 61 * 576 * 2, rollout_bytes=1.0),
    "Qwen/Qwen2.5-32B": Model(32.8e9, 32.8e9, 64, 5120, 64 * 2 * 8 * 128 * 2),
    "Qwen/Qwen2.5-1.5B": Model(1.54e9, 1.54e9, 28, 1536, 28 * 2 * 2 * 128 * 2),
}


def training_operations(model: Model, *, reference: bool, minibatches: int, recompute: bool) -> float:
    """Operations a trained token costs: 2 forward and 4 backward a weight, 2 for each further forward."""
    forwards = 1 + int(recompute) + int(reference) + int(minibatches > 1)
    return model.active * (2 * forwards + 4)


def replica_gpus(model: Model, gpu: Gpu, share: float) -> int:
    """GPUs of one inference engine: the power of two whose `share` of memory holds the weights twice (weights, cache)."""
    needed = 2 * model.parameters * model.rollout_bytes / (gpu.memory * share)
    return 1 << max(math.ceil(math.log2(needed)), 0)


def step_seconds(model: Model, cluster: Cluster, rollout: Rollout, share: float) -> Seconds:
    """Time of one step, sampling and training one after the other (colocated)."""
    gpu, size = cluster.gpu, min(replica_gpus(model, cluster.gpu, share), cluster.gpus)
    replicas = cluster.gpus // size
    speed = size * gpu.bandwidth * BANDWIDTH_SHARE
    weights = model.parameters * model.rollout_bytes
    position = weights / speed + (model.layers * HOP_SECONDS if size > 1 else 0.0)
    free = max(size * gpu.memory * share - weights, 1.0)
    each = rollout.samples / replicas
    waves = max(math.ceil(each * rollout.mean_tokens * model.cache_bytes / free), 1)
    read = model.cache_bytes * rollout.mean_tokens / 2 / speed
    computed = 2 * model.active / (size * gpu.peak * TRAIN_SHARE)
    operations = training_operations(
        model, reference=rollout.reference, minibatches=rollout.minibatches, recompute=True
    )
    return Seconds(
        longest=waves * rollout.max_tokens * position,
        sampling=each * rollout.mean_tokens * (read + computed),
        training=rollout.tokens * operations / (cluster.gpus * gpu.peak * TRAIN_SHARE),
    )


def memory_per_gpu(
    model: Model,
    gpus: int,
    *,
    zero_stage: int,
    dtype_bytes: int,
    offload: bool,
    microbatch_tokens: int,
    reference: bool,
    sharded: bool,
) -> dict[str, float]:
    """Bytes on one GPU during an update, by what they are for. vLLM sleeps then.

    `sharded` False is what `pipeline_lib.training` does today: each rank holds the policy whole when it loads it and
    hands it to its own vLLM, a whole reference, and every activation. True is what a larger model needs: load and reference in
    shards, activations computed again in the backward pass.
    """
    size = model.parameters
    states = 12 if dtype_bytes == 2 else 8
    spread = gpus if sharded else 1
    return {
        "weights": size * dtype_bytes / (gpus if zero_stage == 3 and sharded else 1),
        "gradients": size * dtype_bytes / (gpus if zero_stage >= 2 else 1),
        "optimizer": 0.0 if offload else size * states / (gpus if zero_stage >= 1 else 1),
        "reference": size * dtype_bytes / spread if reference else 0.0,
        "activations": microbatch_tokens * model.hidden * _kept(model, sharded) * dtype_bytes / 2,
    }


def _kept(model: Model, recompute: bool) -> float:
    """Bytes a token and hidden unit: a layer's input each and one layer whole, or every layer whole."""
    if recompute:
        return 2 * model.layers + ACTIVATION_BYTES
    return ACTIVATION_BYTES * model.layers


def dollars(cluster: Cluster, hours: float) -> float:
    """Price of the whole cluster for that long."""
    return cluster.gpus * hours * cluster.dollars_per_gpu_hour
