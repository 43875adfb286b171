"""Model directories: deterministic bytes, one clear error, prompts and responses that survive the round trip."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_lib.errors import ConfigError, DataError, StorageError
from pipeline_lib.modeling import (
    decode,
    end_token_ids,
    load_model,
    load_tokenizer,
    render_prompt,
    save_model,
)


def _bytes(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_saving_twice_and_saving_what_was_loaded_give_the_same_bytes(tmp_path, model, tokenizer):
    save_model(model, tokenizer, tmp_path / "one")
    save_model(model, tokenizer, tmp_path / "elsewhere" / "two")
    save_model(load_model(tmp_path / "one"), load_tokenizer(tmp_path / "one"), tmp_path / "three")
    first = _bytes(tmp_path / "one")
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(first)
    assert _bytes(tmp_path / "elsewhere" / "two") == first
    assert _bytes(tmp_path / "three") == first
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_a_loaded_model_computes_what_the_saved_one_did(tmp_path, model, tokenizer, prompts):
    save_model(model, tokenizer, tmp_path / "m")
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m")(ids).logits, model(ids).logits)


def test_saving_replaces_a_directory_completely(tmp_path, qwen, tokenizer):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "stale.txt").write_text("old")
    save_model(qwen, tokenizer, tmp_path / "m")
    assert not (tmp_path / "m" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_full_disk_is_one_clear_error_and_leaves_the_old_directory(tmp_path, qwen, tokenizer, monkeypatch):
    save_model(qwen, tokenizer, tmp_path / "m")
    before = _bytes(tmp_path / "m")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(qwen, "save_pretrained", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_model(qwen, tokenizer, tmp_path / "m")
    assert _bytes(tmp_path / "m") == before


@pytest.mark.parametrize("removed", ["model.safetensors", "config.json"])
def test_an_incomplete_directory_is_named_with_what_it_lacks(tmp_path, qwen, tokenizer, removed):
    save_model(qwen, tokenizer, tmp_path / "m")
    (tmp_path / "m" / removed).unlink()
    with pytest.raises(DataError, match=rf"{tmp_path}/m: no .*{removed.split('.')[-1]}"):
        load_model(tmp_path / "m")


def test_a_directory_that_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such model directory"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_missing_parameter_is_refused_not_filled_with_noise(tmp_path, qwen, tokenizer):
    save_model(qwen, tokenizer, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj"):
        load_model(tmp_path / "m")


def test_truncated_weights_are_a_data_error(tmp_path, qwen, tokenizer):
    save_model(qwen, tokenizer, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(tmp_path / "m")


def test_an_unknown_dtype_names_the_choices(tmp_path, qwen, tokenizer):
    save_model(qwen, tokenizer, tmp_path / "m")
    with pytest.raises(ConfigError, match="dtype = 'float8'"):
        load_model(tmp_path / "m", "float8")


@pytest.mark.parametrize("text", ["12 + 3 = 15\n  ok", "<think>汉字 a</think><answer>7</answer>"])
def test_text_survives_tokenizer_directory_and_back(tmp_path, qwen, tokenizer, text):
    save_model(qwen, tokenizer, tmp_path / "m")
    loaded = load_tokenizer(tmp_path / "m")
    assert decode(loaded, loaded(text)["input_ids"]) == text
    assert render_prompt(loaded, text) == tokenizer(f"Q: {text}\nA:")["input_ids"]


def test_decode_drops_end_and_padding_and_keeps_tags(tokenizer):
    ids = [0, *tokenizer("<think>a</think>")["input_ids"], 1, 0, 0]
    assert decode(tokenizer, ids) == "<think>a</think>"


def test_a_tokenizer_without_a_chat_template_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(DataError, match="chat_template"):
        render_prompt(tokenizer, "hello")


def test_end_tokens_come_from_tokenizer_and_generation_config(qwen, tokenizer):
    qwen.generation_config.eos_token_id = [5, 1]
    assert end_token_ids(qwen, tokenizer) == (1, 5)
