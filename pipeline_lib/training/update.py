"""The learning half of a GRPO step: judged groups in, new weights out.

    advantages -> minibatches -> micro-batches -> loss over completion tokens -> backward -> step

What is skipped is skipped exactly: a masked sample has no part in any sum, a group of equal rewards has zero
advantages and, without a KL term, a zero gradient. The totals that losses are divided by are those of the
minibatch over all ranks, so neither the cut into micro-batches nor the number of ranks changes the gradient of the
same samples.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline_lib.algorithms.aggregation import Totals
from pipeline_lib.algorithms.objectives import objective_named
from pipeline_lib.algorithms.policy import PolicySettings, PolicyTerms
from pipeline_lib.errors import NonFiniteError
from pipeline_lib.training.agreement import Agreement, measure_agreement
from pipeline_lib.training.critic import Critic, Estimate
from pipeline_lib.training.distributed import Engine, World
from pipeline_lib.training.microbatch import Branch, cut, minibatches
from pipeline_lib.training.packing import PackedTrees, Tree
from pipeline_lib.training.policy import Policy, Switches, logprobs_of, pack_for
from pipeline_lib.training.rollout_step import Group, reward_matrix
from pipeline_lib.types import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline_lib.params import EngineParams, GrpoParams

POLICY, REFERENCE, CRITIC = (
    "the policy's log-probabilities",
    "the reference model's log-probabilities",
    "the critic's values",
)


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What the updates of one rollout were like, over all ranks."""

    updates: int
    """Optimizer steps taken: the minibatches that had any signal."""
    loss: float
    grad_norm: float
    clip_share: float
    kl: float
    trained_tokens: int
    """Completion tokens that went through forward and backward."""
    agreement: Agreement


@dataclass(slots=True)
class _Micro:
    """A packed micro-batch with its rows of the batch and what the loss needs of them."""

    packed: PackedTrees
    rows: list[int]
    samples: list[str]
    """What a message calls each row."""
    sampler_BT: Tensor
    advantages: Tensor
    """(B, 1), or (B, T) where a critic gives one a token."""
    rewards_B: Tensor
    estimate: Estimate | None = None
    old_BT: Tensor | None = None


class PolicyTrainer:
    """The policy under DeepSpeed, its reference model, and the objective."""

    def __init__(
        self, lm: PreTrainedModel, params: GrpoParams, engine: EngineParams, world: World, switches: Switches
    ) -> None:
        self.lm, self.params, self.world, self.switches = lm, params, world, switches
        self.objective = objective_named(params.algorithm)
        self.settings = PolicySettings(
            params.clip_low,
            params.clip_high,
            params.kl_coef,
            params.kl_estimator,
            params.importance_cap,
            params.max_new_tokens,
        )
        self.reference: Policy | None = None
        if params.kl_coef > 0 or not switches.skip_kl:
            self.reference = Policy(copy.deepcopy(lm), switches).requires_grad_(False)
        self.critic = Critic(lm, params, engine, world, switches) if self.objective.critic else None
        self.corrects_sampler = (
            engine.rollout != "torch" or engine.dtype != "float32" or params.minibatches > 1
        )
        self.engine = Engine(
            Policy(lm, switches, gathered=engine.zero_stage < 3),
            engine,
            world,
            learning_rate=params.learning_rate,
            weight_decay=params.weight_decay,
            max_grad_norm=params.max_grad_norm,
        )

    def engines(self) -> dict[str, Engine]:
        """Everything that is trained, by the name it has in a checkpoint."""
        critic = {} if self.critic is None else {"critic": self.critic.engine}
        return {"policy": self.engine, **critic}

    def refresh_reference(self) -> None:
        """Copy the policy into the reference (v2: every 400 steps)."""
        if self.reference is not None:
            with self.engine.whole_weights(), torch.no_grad():
                pairs = zip(self.reference.lm.parameters(), self.lm.parameters(), strict=True)
                for old, new in pairs:
                    old.copy_(new)

    def update(self, groups: Sequence[Group], learning_rate: float) -> UpdateStats:
        """Train on this rank's groups, in `params.minibatches` optimizer steps.

        Raises NonFiniteError naming problem and sample, before any weight moves by it, when the policy, the reference
        model or the critic says NaN or infinity.
        """
        parts = minibatches(groups, self.params.minibatches)
        prepared = [self._prepare(part) for part in parts]
        counts = [self.world.max(len(micros)) for micros, _ in prepared]
        for index, (micros, _) in enumerate(prepared):
            if index > 0 or not self.switches.reuse_forward:
                for micro in micros:
                    micro.old_BT, _ = self._forward(micro, old=True)
                for _ in range(counts[index] - len(micros)):
                    logprobs_of(self.engine, self._nothing(), 1.0)
        if self.critic is not None:
            self._ask_critic(self.critic, [micro for micros, _ in prepared for micro in micros])
        tally = _Tally()
        for index, (micros, totals) in enumerate(prepared):
            if counts[index]:
                self._optimize(parts[index], micros, totals, counts[index], learning_rate, tally)
        return tally.finish(self.world)

    def _ask_critic(self, critic: Critic, micros: Sequence[_Micro]) -> None:
        """One advantage a token, before any weight moves."""
        estimates = critic.estimate([(micro.packed, micro.rewards_B) for micro in micros], self._nothing())
        _require_finite(
            [(micro, CRITIC, e.old_values_BT) for micro, e in zip(micros, estimates, strict=True)]
        )
        for micro, estimate in zip(micros, estimates, strict=True):
            micro.estimate, micro.advantages = estimate, estimate.advantages_BT

    def _prepare(self, groups: Sequence[Group]) -> tuple[list[_Micro], Totals]:
        """Micro-batches of the groups that have a gradient, and the minibatch's totals."""
        if groups:
            rewards_NG, signal_NG = reward_matrix(groups)
            rewards = rewards_NG.flatten()
            advantages_NG = self.objective.advantages(rewards_NG, signal_NG)
        else:
            advantages_NG, signal_NG = torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.bool)
            rewards = torch.zeros(0)
        completions = [completion for group in groups for completion in group.completions]
        signal, advantages = signal_NG.flatten().tolist(), advantages_NG.flatten()
        kept_tokens = sum(len(c.token_ids) for c, s in zip(completions, signal, strict=True) if s)
        totals = Totals(*(int(value) for value in self.world.sum([sum(signal), kept_tokens])))
        size = self.params.group_size
        branches = []
        for index, group in enumerate(groups):
            flat = not bool((advantages_NG[index] != 0).any())
            if flat and self._flat_is_zero and self.switches.skip_flat_groups:
                continue
            rows = tuple(index * size + g for g in range(size) if signal[index * size + g])
            if rows:
                tree = Tree(group.completions[0].prompt_ids, [completions[row].token_ids for row in rows])
                branches.append(Branch(tree, rows))
        cuts = cut(branches, self.params.microbatch_tokens, by_length=self.switches.length_sorted)
        return [self._pack(part, completions, advantages, rewards) for part in cuts], totals

    @property
    def _flat_is_zero(self) -> bool:
        """Whether equal rewards mean a zero gradient: no KL term, no critic."""
        return self.settings.kl_coef == 0 and self.critic is None

    def _pack(
        self,
        branches: Sequence[Branch],
        completions: Sequence[Completion],
        advantages: Tensor,
        rewards: Tensor,
    ) -> _Micro:
        packed = pack_for(self.lm, [branch.tree for branch in branches], self.switches)
        rows = [row for branch in branches for row in branch.rows]
        sampler = [logprob for row in rows for logprob in completions[row].logprobs]
        device = packed.mask_BT.device
        return _Micro(
            packed,
            rows,
            [f"problem {completions[row].problem_id}, sample {row % self.params.group_size}" for row in rows],
            packed.unflatten(torch.tensor(sampler, device=device)),
            advantages[rows].unsqueeze(1).to(device),
            rewards[rows].to(device),
        )

    def _forward(self, micro: _Micro, *, old: bool = False) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the policy and, where there is one, of the reference, (B, T); checked to be finite.

        `old`: those of the policy alone, without a gradient.
        """
        temperature = self.params.temperature
        logprobs_M = (
            logprobs_of(self.engine, micro.packed, temperature)
            if old
            else self.engine(micro.packed, temperature)
        )
        logprobs_BT = micro.packed.unflatten(logprobs_M)
        checks = [(micro, POLICY, logprobs_BT)]
        reference_BT = None
        if self.reference is not None and not old:
            reference_BT = micro.packed.unflatten(logprobs_of(self.reference, micro.packed, temperature))
            checks.append((micro, REFERENCE, reference_BT))
        _require_finite(checks)
        return logprobs_BT, reference_BT

    def _optimize(
        self,
        groups: Sequence[Group],
        micros: Sequence[_Micro],
        totals: Totals,
        count: int,
        learning_rate: float,
        tally: _Tally,
    ) -> None:
        """One optimizer step over `count` micro-batches, the same number on every rank."""
        for index in range(count):
            last = index == count - 1
            if index >= len(micros):
                self._pass_nothing(last=last)
                continue
            micro = micros[index]
            logprobs_BT, reference_BT = self._forward(micro)
            old_BT = logprobs_BT.detach() if micro.old_BT is None else micro.old_BT
            terms = PolicyTerms(
                logprobs_BT,
                old_BT,
                micro.advantages,
                micro.packed.mask_BT,
                reference_BT,
                micro.sampler_BT if self.corrects_sampler else None,
            )
            result = self.objective.loss(terms, self.settings, totals)
            self.engine.backward(result.loss, last=last)
            if self.critic is not None and micro.estimate is not None:
                values_BT = self.critic.values(micro.packed)
                _require_finite([(micro, CRITIC, values_BT)])
                self.critic.backward(values_BT, micro.packed, micro.estimate, totals, last=last)
            tokens = int(micro.packed.mask_BT.sum())
            tally.add(float(result.loss.detach()), int(result.clipped_tokens), float(result.kl_sum), tokens)
            tally.differences.append((old_BT - micro.sampler_BT)[micro.packed.mask_BT].abs())
        norm = self.engine.step(learning_rate)
        critic_norm = 0.0 if self.critic is None else self.critic.engine.step(learning_rate)
        for whose, value in (("", norm), ("critic's ", critic_norm)):
            if not math.isfinite(value):
                names = ", ".join(sorted({group.problem.id for group in groups})[:5])
                raise NonFiniteError(
                    f"the {whose}gradient's norm is {value}; the minibatch holds problems {names}, …"
                )
        tally.norms.append(norm)

    def _pass_nothing(self, *, last: bool) -> None:
        """A forward and backward pass that contributes nothing, for a rank that ran out of micro-batches."""
        packed = self._nothing()
        self.engine.backward(self.engine(packed, 1.0).sum() * 0.0, last=last)
        if self.critic is not None:
            self.critic.backward_nothing(packed, last=last)

    def _nothing(self) -> PackedTrees:
        """What a rank that ran out of micro-batches computes: under ZeRO-3 every forward is a collective."""
        return pack_for(self.lm, [Tree((0,), ((0,),))], self.switches)


def _require_finite(checks: Sequence[tuple[_Micro, str, Tensor]]) -> None:
    """Raise NonFiniteError naming problem and sample of the first (micro-batch, whose values, (B, T)) that is not finite.

    One wait for the device, however many there are.
    """
    if not checks or torch.stack([torch.isfinite(values_BT).all() for _, _, values_BT in checks]).all():
        return
    for micro, whose, values_BT in checks:
        bad_B = ~torch.isfinite(values_BT).all(dim=1)
        if bad_B.any():
            raise NonFiniteError(f"{micro.samples[int(bad_B.nonzero()[0])]}: {whose} are not finite")


class _Tally:
    """Sums over the micro-batches of this rank."""

    def __init__(self) -> None:
        self.loss = self.kl = 0.0
        self.clipped = self.tokens = 0
        self.norms: list[float] = []
        self.differences: list[Tensor] = []

    def add(self, loss: float, clipped: int, kl: float, tokens: int) -> None:
        self.loss += loss
        self.clipped += clipped
        self.kl += kl
        self.tokens += tokens

    def finish(self, world: World) -> UpdateStats:
        loss, clipped, kl, tokens = world.sum([self.loss, self.clipped, self.kl, self.tokens])
        updates = len(self.norms)
        return UpdateStats(
            updates=updates,
            loss=loss / max(updates, 1),
            grad_norm=sum(self.norms) / max(updates, 1),
            clip_share=clipped / max(tokens, 1),
            kl=kl / max(tokens, 1),
            trained_tokens=int(tokens),
            agreement=measure_agreement(self.differences, world),
        )
