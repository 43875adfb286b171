"""The jobs that the fault tests disturb, and every byte of what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline_lib.training.spec import JobSpec
from tests.unit.training.tiny import engine_params


def reward_spec(**overrides: Any) -> JobSpec:
    """The job of `tasks.train_reward_models`."""
    section = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "max_tokens": 200, "checkpoint_every": 2}
    return JobSpec(
        kind="reward_models",
        stage="train_reward_models",
        seed=3,
        section={**section, **overrides},
        engine=engine_params().model_dump(mode="json"),
        inputs={
            "model": "models/base",
            "preferences": "data/problems/preferences.parquet",
            "safety": "data/problems/safety.parquet",
        },
        outputs={"model": "models/reward_models"},
    )


def outputs(root: Path, spec: JobSpec) -> dict[str, bytes]:
    """Every file that the job wrote, by its path. Weights that never moved would prove nothing by being the same: they fail."""
    found = {}
    for output in map(root.joinpath, [*spec.outputs.values(), "job/result.json"]):
        for path in output.rglob("*") if output.is_dir() else [output]:
            if path.is_file():
                found[path.relative_to(root).as_posix()] = path.read_bytes()
    before = (root / spec.inputs["model"] / "model.safetensors").read_bytes()
    weights = [content for path, content in found.items() if path.endswith("/model.safetensors")]
    assert weights
    assert all(content != before for content in weights), f"{spec.name} learned nothing"
    return found
