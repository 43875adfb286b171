"""PPO's learned critic: a second model of the policy's size, and its own optimizer (lesson ch.2: what GRPO drops).

The value head reads the hidden state that predicts each completion token. It starts at zero, so the first
advantages are the plain rewards. Everything else of a step is the policy's (`update`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from pipeline_lib.algorithms.aggregation import Totals
from pipeline_lib.algorithms.gae import gae, terminal_rewards
from pipeline_lib.algorithms.masks import zero_padding
from pipeline_lib.algorithms.ppo import value_loss
from pipeline_lib.training.distributed import Engine, World
from pipeline_lib.training.packing import PackedTrees
from pipeline_lib.training.policy import Policy, Switches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline_lib.params import EngineParams, GrpoParams

GAMMA = 1.0
LAMBDA = 0.95
VALUE_CLIP = 0.2


class ValueModel(nn.Module):
    """A causal LM's body with one value per completion token, (M,) flat."""

    def __init__(self, lm: PreTrainedModel, switches: Switches, *, gathered: bool) -> None:
        """`gathered` as in `Policy`."""
        super().__init__()
        self.body = Policy(lm, switches, gathered=gathered)
        self.head = nn.Linear(lm.config.hidden_size, 1, dtype=lm.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: PackedTrees) -> Tensor:
        hidden_ME = self.body.hidden(batch)[batch.predictors_M]
        return cast(Tensor, self.head(hidden_ME)).squeeze(-1).float()


class Estimate:
    """What the critic says about one micro-batch, (B, T) each."""

    __slots__ = ("advantages_BT", "old_values_BT", "returns_BT")

    def __init__(self, advantages_BT: Tensor, returns_BT: Tensor, old_values_BT: Tensor) -> None:
        self.advantages_BT, self.returns_BT, self.old_values_BT = advantages_BT, returns_BT, old_values_BT


class Critic:
    """The value model under DeepSpeed."""

    def __init__(
        self, lm: PreTrainedModel, params: GrpoParams, engine: EngineParams, world: World, switches: Switches
    ) -> None:
        self.world = world
        copied = copy.deepcopy(lm)
        model = ValueModel(copied, switches, gathered=engine.zero_stage < 3).to(lm.device)
        for parameter in copied.get_output_embeddings().parameters():
            # An untied head has no part in a value; DeepSpeed would wait for its gradient.
            parameter.requires_grad_(parameter is copied.get_input_embeddings().weight)
        self.engine = Engine(
            model,
            engine,
            world,
            learning_rate=params.learning_rate,
            weight_decay=params.weight_decay,
            max_grad_norm=params.max_grad_norm,
        )

    def values(self, packed: PackedTrees) -> Tensor:
        """What the critic expects at each completion token, (B, T)."""
        return packed.unflatten(self.engine(packed))

    @torch.no_grad()
    def estimate(self, batches: Sequence[tuple[PackedTrees, Tensor]], nothing: PackedTrees) -> list[Estimate]:
        """Advantages and returns of every (micro-batch, its rewards_B), whitened over all ranks' tokens.

        `nothing` is computed where another rank has more micro-batches: under ZeRO-3 every forward is a collective.
        """
        estimates = []
        missing = self.world.max(len(batches)) - len(batches)
        for packed, rewards_B in batches:
            values_BT = self.values(packed)
            rewards_BT = terminal_rewards(rewards_B, packed.mask_BT)
            advantages_BT, returns_BT = gae(rewards_BT, values_BT, packed.mask_BT, GAMMA, LAMBDA)
            estimates.append(Estimate(advantages_BT, returns_BT, values_BT))
        for _ in range(missing):
            self.values(nothing)
        masks = [packed.mask_BT for packed, _ in batches]
        flat = [e.advantages_BT[m].double() for e, m in zip(estimates, masks, strict=True)]
        local = [
            sum(float(f.sum()) for f in flat),
            sum(float(f.square().sum()) for f in flat),
            sum(map(len, flat)),
        ]
        total, squares, count = self.world.sum(local)
        mean = total / max(count, 1)
        std = max(squares / max(count, 1) - mean * mean, 0.0) ** 0.5
        for estimate, mask_BT in zip(estimates, masks, strict=True):
            estimate.advantages_BT = zero_padding((estimate.advantages_BT - mean) / (std + 1e-8), mask_BT)
        return estimates

    def backward(
        self, values_BT: Tensor, packed: PackedTrees, estimate: Estimate, totals: Totals, *, last: bool
    ) -> None:
        """Add the gradient of the value loss of one micro-batch, from its present `values`."""
        loss = value_loss(
            values_BT, estimate.old_values_BT, estimate.returns_BT, packed.mask_BT, VALUE_CLIP, totals
        )
        self.engine.backward(loss, last=last)

    def backward_nothing(self, packed: PackedTrees, *, last: bool) -> None:
        """A pass that contributes nothing, for a rank that ran out of micro-batches."""
        self.engine.backward(self.engine(packed).sum() * 0.0, last=last)
