"""Sections that every stage shares: the run and the engine it runs on."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline_lib.params._base import Fraction, Name, PositiveFloat, PositiveInt, StrictModel

_WORD = r"^[^\s'\"\\]*$"
"""One word of a script's header: a line break in it would be a line of the script, a space another option."""
_SBATCH = frozenset({
    "acctg-freq", "bb", "begin", "cluster-constraint", "comment", "constraint", "contiguous", "core-spec",
    "cores-per-socket", "cpu-freq", "cpus-per-gpu", "cpus-per-task", "dependency", "distribution", "exclude", "exclusive",
    "extra-node-info", "gpu-bind", "gpu-freq", "gres", "gres-flags", "hint", "hold", "licenses", "mail-type", "mem",
    "mem-bind", "mem-per-cpu", "mem-per-gpu", "mincpus", "network", "nice", "nodelist", "oversubscribe", "prefer",
    "priority", "qos", "reservation", "sockets-per-node", "spread-job", "switches", "thread-spec",
    "threads-per-core", "time-min", "tmp", "tres-bind", "tres-per-task", "use-min-nodes", "wckey",
})  # fmt: skip
"""sbatch options that say where and when a job runs. The launcher sets others itself, and some would let whoever
triggers a run write files (output), run the job as somebody else (uid) or more than once (array)."""


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


class ServersParams(StrictModel):
    """Where the `vllm_servers` rollout samples; unused by the others. Each trainer rank feeds its own servers.

    It has defaults: addresses and deadlines do not reach a job's result. The number of servers does, and is part of its
    content key.
    """

    addresses: list[str] = Field(
        default_factory=list,
        description="host:port of servers that somebody else started (docs/operations.md); empty: the job starts its own.",
    )
    weights_dir: str = Field(
        "",
        description="A directory of this job alone that the trainer's and the servers' hosts see at the same path; needed "
        "with addresses. Local servers read weights from the trainer's memory.",
    )
    count: PositiveInt = Field(
        2, description="Local servers, when there are no addresses; a multiple of world_size."
    )
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs of one server.")
    start_seconds: PositiveFloat = Field(
        900.0, description="A server that does not serve so long after its start is replaced."
    )
    silence_seconds: PositiveFloat = Field(
        1800.0,
        description="A server that finishes no group for so long is replaced; longer than one whole response takes.",
    )
    update_seconds: PositiveFloat = Field(
        900.0, description="A server that has not loaded new weights after so long is replaced."
    )
    replacements: int = Field(
        3, ge=0, description="How often a job starts a new server in the place of a lost one, for each place."
    )

    @property
    def total(self) -> int:
        """Servers of the job."""
        return len(self.addresses) or self.count

    @model_validator(mode="after")
    def _others_need_a_directory(self) -> ServersParams:
        if self.addresses and not self.weights_dir:
            raise ValueError(
                "engine.servers.weights_dir is empty; name a directory that the hosts of engine.servers.addresses see"
            )
        twins = sorted({address for address in self.addresses if self.addresses.count(address) > 1})
        if twins:
            raise ValueError(f"engine.servers.addresses: {twins[0]} is named twice; name each server once")
        return self


class SlurmParams(StrictModel):
    """What the `slurm` launcher asks sbatch for; other launchers do not read it. Ranks fill whole nodes.

    Unlike the rest of params.yaml it has defaults: where and for how long a job may run does not reach its result, nor
    its content key.
    """

    partition: str = Field("", pattern=_WORD, description="Partition; empty: the cluster's default.")
    account: str = Field("", pattern=_WORD, description="Account to charge; empty: the user's default.")
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
        description="More sbatch options, one long word each: ['--exclusive', '--constraint=h100'].",
    )

    @field_validator("options")
    @classmethod
    def _are_options_of_the_user(cls, options: list[str]) -> list[str]:
        for option in options:
            if not re.fullmatch(r"--[a-z][^\s'\"\\]*", option):
                raise ValueError(f"{option!r} is not one long option in one word, like '--constraint=h100'")
            if option[2:].partition("=")[0] not in _SBATCH:
                raise ValueError(
                    f"{option!r} is not an option that a parameter may give ({', '.join(sorted(_SBATCH))}); "
                    "set it where the launcher runs, as an SBATCH_… variable"
                )
        return options


class KubernetesParams(StrictModel):
    """What the `kubernetes` launcher asks of a cluster; other launchers do not read it. One pod a node; ranks fill nodes.

    Like Slurm's section it has defaults and is no part of a job's content key. Secrets have no place in it: name a Secret.
    """

    context: str = Field(
        "", description="Context of the kubeconfig; empty: the current one, or the pod's own account."
    )
    namespace: Name = Field("default", description="Namespace of the jobs.")
    image: str = Field(
        "", description="Image with this project's dependencies (infra/kubernetes/Dockerfile); must be given."
    )
    python: str = Field("python", description="The image's interpreter.")
    volumes: dict[str, str] = Field(
        default_factory=dict,
        description="Claim -> path. Each persistent volume claim is mounted at that path, which must be the path it has "
        "here; one of them holds the worktree, and every pod writes to it (ReadWriteMany).",
    )
    queue: str = Field("", description="Kueue's local queue; empty: the scheduler alone.")
    service_account: str = Field("", description="Of the pods; empty: the namespace's default.")
    secret: str = Field(
        "", description="A Secret whose entries the pods find in their environment (S3, a hub)."
    )
    gpus_per_node: int = Field(
        0,
        ge=0,
        description="GPUs, and so ranks, of a pod; world_size is a multiple. 0: one CPU rank a pod.",
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="What the cluster calls a GPU.")
    resources: dict[str, str] = Field(
        default_factory=dict,
        description="More limits (and so requests) of a pod: {cpu: '64', memory: 900Gi, rdma/hca: '8'}.",
    )
    time_limit_minutes: int = Field(0, ge=0, description="Time limit, from when the job may start; 0: none.")
    grace_seconds: int = Field(
        120,
        ge=1,
        description="SIGTERM comes this long before SIGKILL and before the time limit; a step and a checkpoint fit in.",
    )
    start_minutes: int = Field(
        60, ge=0, description="A job that could not start for so long (no node, no quota) is held; 0: never."
    )
    labels: dict[str, str] = Field(default_factory=dict, description="More labels of the job and its pods.")
    env: dict[str, str] = Field(default_factory=dict, description="More environment of the pods.")
    pod: dict[str, Any] = Field(
        default_factory=dict,
        description="More of the pod's spec, as Kubernetes writes it: {nodeSelector: {...}, tolerations: [...]}.",
    )


class EngineParams(StrictModel):
    """How models are sampled and trained. Changing it changes speed, and float rounding."""

    rollout: Literal["torch", "vllm", "vllm_servers"] = Field(
        description="Sampler. `torch`: the KV-cache sampler of pipeline_lib.rollout, fastest on CPU for small models; "
        "`vllm`: the default on GPUs (docs/decisions/0006); `vllm_servers`: other processes, also on other hosts (0017)."
    )
    world_size: PositiveInt = Field(description="Trainer processes (ranks).")
    zero_stage: Literal[0, 1, 2, 3] = Field(description="DeepSpeed ZeRO stage.")
    dtype: Literal["float32", "bfloat16"] = Field(
        description="Training precision; bfloat16 needs hardware for it."
    )
    offload: Literal["none", "cpu"] = Field(description="Where DeepSpeed keeps optimizer state.")
    threads: int = Field(ge=0, description="Torch threads per process; 0 = cores // world_size.")
    launcher: Name = Field(description="Where jobs start: a module of pipeline_lib/launch.")
    vllm: VllmParams
    servers: ServersParams = ServersParams()
    slurm: SlurmParams = SlurmParams()
    kubernetes: KubernetesParams = KubernetesParams()
