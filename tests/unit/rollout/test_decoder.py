"""The lean forward pass is the model: its logits equal transformers', padded or not."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from pipeline_lib.errors import ConfigError
from pipeline_lib.rollout.decoder import Decoder

TOLERANCE = 2e-5


def _left_pad(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    return torch.tensor([[0] * (width - len(p)) + p for p in prompts]), torch.tensor(
        [len(p) for p in prompts]
    )


def _cache(decoder: Decoder, rows: int, columns: int) -> torch.Tensor:
    shape = (2 * len(decoder.layers), rows, decoder.kv_heads, columns, decoder.head_dim)
    return torch.full(shape, float("nan"), dtype=decoder.dtype)  # NaN: reading an unwritten column shows


def _reference(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0]


@torch.no_grad()
def test_prefill_of_padded_prompts_equals_each_prompt_alone(model, prompts):
    decoder = Decoder(model)
    ids, lengths = _left_pad(prompts)
    logits = decoder.prefill(ids, lengths, decoder.rotation(128), _cache(decoder, *ids.shape))
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(logits[row], _reference(model, prompt)[-1], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_steps_after_a_padded_prefill_equal_the_full_forward(model, prompts):
    decoder, steps = Decoder(model), 6
    ids, lengths = _left_pad(prompts)
    rows, width = ids.shape
    table, cache = decoder.rotation(128), _cache(decoder, rows, width + steps)
    decoder.prefill(ids, lengths, table, cache[:, :, :, :width])
    fed = torch.randint(6, 40, (rows, steps), generator=torch.Generator().manual_seed(1))
    for step in range(steps):
        columns = torch.arange(width + step + 1)
        hidden = torch.zeros(rows, len(columns))
        hidden[columns[None] < (width - lengths)[:, None]] = -torch.inf
        window = slice(0, width + step + 1)
        logits = decoder.step(fed[:, step], table.at(lengths + step), cache, window, hidden)
        for row, prompt in enumerate(prompts):
            expected = _reference(model, prompt + fed[row, : step + 1].tolist())[-1]
            torch.testing.assert_close(logits[row], expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_bfloat16_weights_stay_within_bfloat16_of_transformers(qwen, prompts):
    qwen = qwen.to(torch.bfloat16)
    decoder = Decoder(qwen)
    ids, lengths = _left_pad(prompts)
    logits = decoder.prefill(ids, lengths, decoder.rotation(64), _cache(decoder, *ids.shape))
    assert logits.dtype is torch.bfloat16
    for row, prompt in enumerate(prompts):
        expected = _reference(qwen, prompt)[-1]
        assert (logits[row] - expected).abs().max() < 0.05 * expected.abs().max()


def test_another_architecture_is_refused_with_the_remedy():
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10))
    with pytest.raises(ConfigError, match=r"gpt2.*vllm"):
        Decoder(other)


@pytest.mark.parametrize(
    "change",
    [
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ],
)
def test_what_the_lean_pass_does_not_compute_is_refused(change):
    config = Qwen2Config(
        vocab_size=10,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        **change,
    )
    with pytest.raises(ConfigError, match="vllm"):
        Decoder(Qwen2ForCausalLM(config))
