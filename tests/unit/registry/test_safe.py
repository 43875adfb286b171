"""Only what cannot carry code is registered."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline_lib.errors import DataError
from pipeline_lib.registry.safe import require_safe_model

ASSETS = Path(__file__).resolve().parents[3] / "assets" / "micro"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def test_a_safetensors_directory_passes(model):
    require_safe_model(model)


@pytest.mark.parametrize("shipped", sorted(path.name for path in ASSETS.iterdir() if path.is_dir()))
def test_the_models_of_this_repository_pass(shipped):
    require_safe_model(ASSETS / shipped)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "optimizer.pt",
        "weights.pth",
        "model.pkl",
        "model.ckpt",
        "modeling_x.py",
        "a/b.bin",
    ],
)
def test_anything_that_may_carry_code_is_refused_by_name(model, name):
    (model / name).parent.mkdir(exist_ok=True)
    torch.save({"w": torch.zeros(1)}, model / name)
    with pytest.raises(DataError, match=name) as refused:
        require_safe_model(model)
    assert len(str(refused.value).splitlines()) == 1


def test_a_pickle_called_safetensors_is_refused(model):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(64)}, buffer, _use_new_zipfile_serialization=False)
    (model / "model-2.safetensors").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match=r"model-2\.safetensors: not a safetensors file"):
        require_safe_model(model)


def test_a_truncated_file_is_refused(model):
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:20])
    with pytest.raises(DataError, match="not a safetensors file"):
        require_safe_model(model)


def test_a_link_is_judged_by_its_own_name(model, tmp_path):
    """DVC may link files out of its cache, whose names have no suffix."""
    cached = tmp_path / "d41d8"
    shutil.move(model / "model.safetensors", cached)
    (model / "model.safetensors").symlink_to(cached)
    require_safe_model(model)


def test_a_directory_without_weights_is_refused(model):
    (model / "model.safetensors").unlink()
    with pytest.raises(DataError, match="nothing to register"):
        require_safe_model(model)
