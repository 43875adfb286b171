"""What a training job is told: one small frozen value, written as JSON, the same for every launcher.

Paths are relative to the worktree the job runs in. The content key of a job is the hash of this value, of its
inputs' bytes and of the code that trains: a checkpoint of another key is never resumed from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline_lib.storage.hash import hash_code, hash_path

Kind = Literal["grpo", "sft", "reward_models"]
CODE = ("algorithms", "training", "rollout", "rewards", "modeling.py", "types.py")
"""What decides a trained model's bytes, below pipeline_lib/."""
PLACEMENT = ("slurm", "kubernetes")
"""Sections of `engine` that only say what a launcher asks of its cluster."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One training job.

    Inputs by role: `model`; `problems` (grpo: problem set, sft: samples); grpo optionally `general` and
    `reward_models`; reward_models: `preferences` and `safety`.
    Outputs by role: `model`; `plot` (CSV per step); grpo also `rollouts` (sample table).
    """

    kind: Kind
    stage: str
    seed: int
    section: Mapping[str, Any]
    """The stage's section of params.yaml (`model_dump()`)."""
    engine: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    target_language: str = "en"
    item: str | None = None
    switches: Mapping[str, bool] = field(default_factory=dict)
    """Overrides of `policy.Switches`, for benchmarks."""
    sampling_switches: Mapping[str, bool] = field(default_factory=dict)
    """Likewise of the torch sampler's `SamplerSwitches`."""
    judge_early: bool = True
    """`rollout_step.Sampler.judge_early`, for benchmarks too."""

    @property
    def name(self) -> str:
        """Stage and item, as people write them: `distill@qwen-xs`."""
        return self.stage if self.item is None else f"{self.stage}@{self.item}"

    def to_json(self) -> str:
        """Canonical JSON: equal specs give equal text."""
        return json.dumps(asdict(self), sort_keys=True, indent=2)

    @staticmethod
    def from_json(text: str) -> JobSpec:
        """The inverse of `to_json`."""
        return JobSpec(**json.loads(text))

    def content_key(self, root: Path) -> str:
        """16 hex digits that name this job: what it is told, what it reads, the code it runs.

        A queue's partition or time limit is not among it: a job that is given more time goes on where it was. Nor is
        the address of a rollout server.
        DataError when an input is missing.
        """
        engine = {k: v for k, v in self.engine.items() if k not in PLACEMENT}
        servers = engine.pop("servers", None)
        if servers and engine["rollout"] == "vllm_servers":  # who samples what depends on how many there are
            engine["servers"] = len(servers["addresses"]) or servers["count"]
        told = replace(self, engine=engine)
        digest = hashlib.sha256(told.to_json().encode())
        for role, path in sorted(self.inputs.items()):
            digest.update(f"{role}={hash_path(root / path)}\n".encode())
        digest.update(hash_code(CODE).encode())
        return digest.hexdigest()[:16]
