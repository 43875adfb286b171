"""A lean forward pass for Qwen2- and Llama-shaped decoders, over a slot cache of keys and values.

It reads the very parameters of a transformers model (no copy: they may be in training) and computes the
same function: RMSNorm, rotary positions, grouped-query attention, SwiGLU, Qwen2's qkv bias. What it
leaves out is what makes `generate` slow for a small model: per-layer Python, mask building, cache
objects, and a batch that keeps finished rows. A test holds its logits equal to transformers'.

Shape letters: B rows, S cache slots, H query heads, K key-value heads, R = H / K, D head width,
P prompt columns, C cache columns, E model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED = ("qwen2", "llama")
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and signed sines of some positions; the sign of rotate-half is folded into `sin`."""

    cos: Tensor
    sin: Tensor

    def at(self, positions: Tensor) -> Rotation:
        return Rotation(self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2))

    def turn(self, x: Tensor) -> Tensor:
        """Rotate x [..., heads, D]; equals transformers' `apply_rotary_pos_emb`."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)


class Decoder:
    """The forward pass of one model. Holds references to its modules, never copies of its weights."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        _require_supported(config)
        self.model = model
        self.body: Any = model.model
        self.layers = list(self.body.layers)
        attention = self.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.scale: float = attention.scaling
        self.max_positions: int = config.max_position_embeddings

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def rotation(self, positions: int) -> Rotation:
        """The table for positions 0 … `positions` - 1, each [positions, D]."""
        ids = torch.arange(positions, device=self.device)[None]
        reference = torch.empty(0, dtype=self.dtype, device=self.device)
        cos, sin = self.body.rotary_emb(reference, ids)
        sign = torch.ones_like(sin[0])
        sign[:, : self.head_dim // 2] = -1
        return Rotation(cos[0], sin[0] * sign)

    def prefill(self, ids_BP: Tensor, lengths_B: Tensor, table: Rotation, out: Tensor) -> Tensor:
        """Run left-padded prompts; write keys and values, return the logits [B, V] after the last token.

        `out` is [2 * layers, B, K, P, D] and receives keys at 2 * layer and values at 2 * layer + 1.
        """
        batch, width = ids_BP.shape
        columns = torch.arange(width, device=ids_BP.device)
        first_B1 = (width - lengths_B)[:, None]
        rotation = table.at((columns[None] - first_B1).clamp(min=0))
        real_BP = columns[None] >= first_B1
        causal = columns[:, None] >= columns[None, :]
        itself = columns[:, None] == columns[None, :]  # a padding row sees itself, or its softmax is 0/0
        mask = (causal[None] & real_BP[:, None, :] | itself[None])[:, None]
        x = F.embedding(ids_BP, self.body.embed_tokens.weight)
        for index, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, rotation)
            keys, values = out[2 * index], out[2 * index + 1]
            keys.copy_(k.transpose(1, 2))
            values.copy_(v.transpose(1, 2))
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2), keys, values, attn_mask=mask, scale=self.scale, enable_gqa=True
            )
            x = self._finish_layer(layer, x, mixed.transpose(1, 2).reshape(batch, width, -1))
        return self._logits(x[:, -1])

    def step(
        self, ids_B: Tensor, rotation: Rotation, cache: Tensor, window: slice, hidden_BC: Tensor | None
    ) -> Tensor:
        """One token for each of the first B slots; returns logits [B, V].

        `cache` is [2 * layers, S, K, C, D]. The new keys and values go to column `window.stop - 1`;
        attention reads the columns of `window`. `hidden_BC` is -inf where a row's prompt has not begun,
        or None when every row begins at or before the window.
        """
        rows = ids_B.shape[0]
        groups = self.heads // self.kv_heads
        x = F.embedding(ids_B, self.body.embed_tokens.weight)
        for index, layer in enumerate(self.layers):
            q, k, v = self._project(layer, x, rotation)
            keys, values = cache[2 * index, :rows], cache[2 * index + 1, :rows]
            keys[:, :, window.stop - 1] = k
            values[:, :, window.stop - 1] = v
            keys_NCD = keys.flatten(0, 1)[:, window]
            values_NCD = values.flatten(0, 1)[:, window]
            q_NRD = (q * self.scale).view(rows * self.kv_heads, groups, self.head_dim)
            scores_NRC = torch.bmm(q_NRD, keys_NCD.transpose(1, 2))
            if hidden_BC is not None:
                scores_NRC.view(rows, self.heads, -1).add_(hidden_BC[:, None])
            weights_NRC = torch.softmax(scores_NRC, -1, dtype=torch.float32).to(x.dtype)
            x = self._finish_layer(layer, x, torch.bmm(weights_NRC, values_NCD).view(rows, -1))
        return self._logits(x)

    def _project(self, layer: Any, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Normed and rotated queries [..., H, D], keys [..., K, D], and values [..., K, D]."""
        attention = layer.self_attn
        h = _rms_norm(x, layer.input_layernorm)
        q, k, v = (
            F.linear(h, projection.weight, projection.bias).unflatten(-1, (-1, self.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return rotation.turn(q), rotation.turn(k), v

    @staticmethod
    def _finish_layer(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
        """Output projection, residual, and the gated feed-forward block."""
        output, mlp = layer.self_attn.o_proj, layer.mlp
        x = x + F.linear(mixed, output.weight, output.bias)
        h = _rms_norm(x, layer.post_attention_layernorm)
        gate = mlp.act_fn(F.linear(h, mlp.gate_proj.weight, mlp.gate_proj.bias))
        gate = gate.mul_(F.linear(h, mlp.up_proj.weight, mlp.up_proj.bias))
        return x + F.linear(gate, mlp.down_proj.weight, mlp.down_proj.bias)

    def _logits(self, x: Tensor) -> Tensor:
        head: Any = self.model.get_output_embeddings()
        return F.linear(_rms_norm(x, self.body.norm), head.weight)


def _rms_norm(x: Tensor, norm: Any) -> Tensor:
    """Root-mean-square norm, in float32 whatever the weights are (as the reference implementations do)."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    return norm.weight * wide.to(x.dtype)


def _require_supported(config: Any) -> None:
    if config.model_type not in SUPPORTED:
        raise ConfigError("rollout", f"torch with a {config.model_type} model", 'set rollout to "vllm"')
    if getattr(config, "use_sliding_window", False):
        raise ConfigError("rollout", "torch with sliding-window attention", 'set rollout to "vllm"')
    rope = config.rope_parameters["rope_type"]
    if rope not in _STATIC_ROPE:
        raise ConfigError("rollout", f"torch with {rope} rotary positions", 'set rollout to "vllm"')
