"""A checkpoint is tensors: one that somebody changed in the bucket runs no code in the trainer that resumes from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pipeline_lib.training.checkpoint import CheckpointStore, _seal
from pipeline_lib.training.distributed import join_world
from pipeline_lib.training.only_tensors import SWITCH
from pipeline_lib.training.policy import Switches
from pipeline_lib.training.update import PolicyTrainer
from tests.unit.training.tiny import engine_params, grpo_params, on_ranks, tiny_model


class _Bomb:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def _resume(root: Path, zero: int, spoilt: str | None) -> str:
    """Save a checkpoint, put a bomb into it with a manifest that says it is sound, load it; what that said."""
    engine = engine_params(zero_stage=zero)
    world = join_world(engine)
    trainer = PolicyTrainer(tiny_model(), grpo_params(), engine, world, Switches())
    store = CheckpointStore(root, world)
    store.save(1, trainer.engines(), {"step": 1}, {"reference": torch.ones(2)})
    if spoilt:
        folder = root / "step-00000001"
        (file,) = folder.rglob(spoilt)
        content = torch.load(file, weights_only=False)
        content["bomb"] = _Bomb(root / "owned")
        torch.save(content, file)
        (folder / "manifest.json").unlink()
        _seal(folder)
    try:
        state, _ = store.load(trainer.engines()) or ({}, {})
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        assert SWITCH not in os.environ
    return str(state["step"])


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_a_checkpoint_of_ours_is_loaded(tmp_path, zero):
    assert on_ranks(1, lambda: _resume(tmp_path, zero, None)) == ["1"]


@pytest.mark.parametrize(
    ("zero", "file"),
    [
        (0, "*model_states.pt"),
        (2, "*optim_states.pt"),
        (3, "*model_states.pt"),
        (0, "tensors.pt"),
        (0, "rank-0.pt"),
    ],
)
def test_a_bomb_in_a_checkpoint_does_not_go_off(tmp_path, zero, file):
    (said,) = on_ranks(1, lambda: _resume(tmp_path, zero, file))
    assert "mkdir" in said, said
    assert not (tmp_path / "owned").exists()
    assert said.startswith("DataError: ")
    assert said.endswith("Find out who wrote it, and remove it.")
