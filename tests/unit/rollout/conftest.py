"""Tiny models of both supported families and a character tokenizer, built in a moment and never trained."""

from __future__ import annotations

import string

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

PAD, EOS = 0, 1
TAGS = ["<think>", "</think>", "<answer>", "</answer>"]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    pieces = ["<pad>", "<eos>", *TAGS, *string.digits, *string.ascii_lowercase, *"QA+-*=:?. \n汉字"]
    raw = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", additional_special_tokens=TAGS
    )
    fast.chat_template = "Q: {{ messages[0]['content'] }}\nA:"
    return fast


def _shape(tokenizer: PreTrainedTokenizerFast, **overrides: object) -> dict[str, object]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": None,
        "tie_word_embeddings": True,
        **overrides,
    }


def _randomised(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Every parameter random, biases and norms too: a zero bias would hide that it was never added."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else 0.25 * noise)
    return model.eval()


@pytest.fixture
def qwen(tokenizer) -> PreTrainedModel:
    """Grouped-query attention, qkv bias, tied embeddings."""
    return _randomised(Qwen2ForCausalLM(Qwen2Config(**_shape(tokenizer))))


@pytest.fixture
def llama(tokenizer) -> PreTrainedModel:
    """Head width not hidden / heads, llama3 rotary scaling, untied head, one head per key-value head."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(
        **_shape(
            tokenizer, head_dim=16, num_key_value_heads=4, tie_word_embeddings=False, rope_parameters=rope
        )
    )
    return _randomised(LlamaForCausalLM(config))


@pytest.fixture(params=["qwen", "llama"])
def model(request) -> PreTrainedModel:
    return request.getfixturevalue(request.param)


@pytest.fixture
def prompts() -> list[list[int]]:
    """Prompts of very different lengths, so that every batch has padding."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(6, 40, (length,), generator=generator).tolist() for length in (3, 17, 1, 9, 17)]
