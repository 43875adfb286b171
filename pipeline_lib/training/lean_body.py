"""The decoder's layers for training, with cheaper norms and rotations than transformers' (design §7).

In a model of width 128 or 576 a layer's products take hardly longer than what stands between them. transformers writes
RMSNorm as six operators and a rotation as five, each a pass over memory, and their backward passes as twice as
many. Here each is one autograd function: the same values and gradients up to rounding, a seventh and half of the time.
The linear layers are the model's own modules. `Policy` uses this for float32 Qwen2 and Llama whose weights are
whole; otherwise, and with the switch off, transformers' `forward` runs. Checked against it in tests/invariants.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from pipeline_lib.rollout.decoder import SUPPORTED
from pipeline_lib.training.attention import attend
from pipeline_lib.training.packing import PackedTrees


def is_supported(lm: Any) -> bool:
    """Whether `lean_hidden` computes what this model's own `forward` does."""
    config = lm.config
    return (
        config.model_type in SUPPORTED
        and lm.dtype == torch.float32
        and not getattr(config, "use_sliding_window", False)
    )


def lean_hidden(lm: Any, batch: PackedTrees) -> Tensor:
    """Last hidden states of the flat stream, (T, E)."""
    body = lm.model
    x_TE = body.embed_tokens(batch.input_ids_1T[0])
    cos_1TD, sin_1TD = body.rotary_emb(x_TE, position_ids=batch.position_ids_1T)
    cos_T1D, sin_T1D = cos_1TD[0].unsqueeze(1), sin_1TD[0].unsqueeze(1).clone()
    sin_T1D[..., : sin_T1D.shape[-1] // 2].neg_()
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        h_TE = rms_norm(x_TE, layer.input_layernorm)
        q_THD, k_TKD, v_TKD = (
            projection(h_TE).unflatten(-1, (-1, attention.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q_THD, k_TKD = (cast(Tensor, _Rotate.apply(x, cos_T1D, sin_T1D)) for x in (q_THD, k_TKD))
        mixed_THD = attend(q_THD, k_TKD, v_TKD, batch.layout, attention.scaling)
        x_TE = x_TE + attention.o_proj(mixed_THD.flatten(1))
        h_TE = rms_norm(x_TE, layer.post_attention_layernorm)
        x_TE = x_TE + mlp.down_proj(mlp.act_fn(mlp.gate_proj(h_TE)) * mlp.up_proj(h_TE))
    return rms_norm(x_TE, body.norm)


def rms_norm(x_TE: Tensor, norm: Any) -> Tensor:
    """`norm(x_TE)` for a transformers RMSNorm."""
    return cast(Tensor, _RmsNorm.apply(x_TE, norm.weight, norm.variance_epsilon))


class _RmsNorm(torch.autograd.Function):
    """y = w * n, n = x r, r = 1 / sqrt(mean(x²) + ε);  dx = r (g w - n mean(g w n)),  dw = sum_t g n.

    The backward pass is torch's fused one of LayerNorm at mean 0, which has one term more, r mean(g w); it is added back.
    """

    @staticmethod
    def forward(ctx: Any, x_TE: Tensor, weight_E: Tensor, epsilon: float) -> Tensor:
        norm_T1 = torch.linalg.vector_norm(x_TE, dim=-1, keepdim=True)
        scale_T1 = norm_T1.square_().div_(x_TE.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_TE, weight_E, scale_T1)
        return (x_TE * scale_T1).mul_(weight_E)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_TE, weight_E, scale_T1 = ctx.saved_tensors
        grad_TE, width = grads[0].contiguous(), x_TE.shape[-1]
        grad_x_TE, grad_weight_E, _ = torch.ops.aten.native_layer_norm_backward(
            grad_TE, x_TE, [width], torch.zeros_like(scale_T1), scale_T1, weight_E, None, [True, True, False]
        )
        grad_x_TE.add_((grad_TE @ weight_E).unsqueeze(-1).mul_(scale_T1).div_(width))
        return grad_x_TE, grad_weight_E, None


class _Rotate(torch.autograd.Function):
    """y = x cos + swap(x) sin, where `swap` exchanges the halves of a head and `sin` has its first half negated.

    The inverse turns back: swapping is its own transpose and flips the sign of `sin`.
    """

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1D, sin_T1D)
        return (x_THD * cos_T1D).addcmul_(x_THD.roll(x_THD.shape[-1] // 2, -1), sin_T1D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos_T1D, sin_T1D = ctx.saved_tensors
        grad_THD = grads[0]
        turned = grad_THD.roll(grad_THD.shape[-1] // 2, -1)
        return (grad_THD * cos_T1D).addcmul_(turned, sin_T1D, value=-1), None, None
