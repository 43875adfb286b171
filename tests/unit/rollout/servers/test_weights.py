"""Published weights: what servers read is what the model holds, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline_lib.errors import ConfigError
from pipeline_lib.rollout.servers.weights import DirectoryFiles, MemoryFiles
from tests.unit.training.tiny import tiny_model


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_memory_holds_every_parameter_once_and_the_last_version_only(family) -> None:
    model, files = tiny_model(family), MemoryFiles()
    (first,) = files.publish(model, 0)
    found = load_file(first)
    assert ("lm_head.weight" in found) == (family == "llama")  # tied in the other
    for name, parameter in model.named_parameters():
        assert torch.equal(found[name], parameter)
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
    (second,) = files.publish(model, 1)
    assert torch.equal(load_file(second)["model.norm.weight"], model.model.norm.weight)
    assert first == second or not Path(first).exists()
    files.close()
    assert not Path(second).exists()


def test_a_directory_holds_one_version_and_is_empty_at_the_end(tmp_path) -> None:
    (tmp_path / "rollout-weights-0-7.safetensors").write_text("of a killed trainer")
    (tmp_path / "rollout-weights-1-7.safetensors").write_text("another rank's")
    files = DirectoryFiles(tmp_path, rank=0)
    files.publish(tiny_model(), 0)
    (path,) = files.publish(tiny_model(), 1)
    assert "model.norm.weight" in load_file(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "rollout-weights-0-1.safetensors",
        "rollout-weights-1-7.safetensors",
    ]
    files.close()
    assert [p.name for p in tmp_path.iterdir()] == ["rollout-weights-1-7.safetensors"]


def test_a_directory_that_is_not_there_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.servers\.weights_dir = .*make one"):
        DirectoryFiles(tmp_path / "nothing", rank=0)
