"""The sampling half of a GRPO step: problems in, judged completions out.

A finished group goes to the scorer while the other prompts still sample (design §7). Learned rewards come last,
in one batch, and only for general prompts (stage 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline_lib.rollout.protocol import Generator, require_version
from pipeline_lib.types import Completion, Domain, Problem, Reward, SamplingParams

ScoreFunction = Callable[
    [Sequence[Problem], Sequence[Completion], Mapping[str, float], Mapping[str, Sequence[float]]],
    list[Reward],
]
"""(problem of each completion, completions, weights, learned parts) -> a reward each; `rewards.Scorer.score_batch`."""


class LearnedReward(Protocol):
    """What a learned reward promises: a number in [0, 1] a response."""

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One number per (prompt, response)."""
        ...


@dataclass(frozen=True, slots=True)
class Group:
    """The G completions of one problem, judged."""

    problem: Problem
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...]


@dataclass(frozen=True, slots=True)
class Sampler:
    """Samples and judges groups with fixed settings."""

    generator: Generator
    score: ScoreFunction
    sampling: SamplingParams
    render: Callable[[str], list[int]]
    """Prompt text -> token ids."""
    judge_early: bool = True
    """Rules judge a group while other prompts sample (design §7). Off: afterwards, for benchmarks."""

    def groups(
        self,
        problems: Sequence[Problem],
        *,
        seed: int,
        version: int,
        weights: Mapping[str, float],
        learned: Mapping[str, LearnedReward],
    ) -> list[Group]:
        """One judged group per problem, in order.

        Raises WeightVersionMismatch when a completion was not drawn from weights of `version`.
        """
        if not problems:
            return []
        with ThreadPoolExecutor(1, thread_name_prefix="judge") as judge:
            pending: dict[int, Future[list[Reward]]] = {}

            def hand_over(index: int, group: list[Completion]) -> None:
                if self.judge_early and not learned:
                    pending[index] = judge.submit(self._judge, problems[index], group, weights)

            sampled = self.generator.generate(
                [self.render(problem.prompt) for problem in problems],
                [problem.id for problem in problems],
                self.sampling,
                seed=seed,
                on_group=hand_over,
            )
            require_version((completion for group in sampled for completion in group), version)
            if learned:
                rewards = self._judge_learned(problems, sampled, weights, learned)
            elif self.judge_early:
                rewards = [pending[index].result() for index in range(len(problems))]
            else:
                rewards = [
                    self._judge(problem, group, weights)
                    for problem, group in zip(problems, sampled, strict=True)
                ]
        return [
            Group(problem, tuple(completions), tuple(judged))
            for problem, completions, judged in zip(problems, sampled, rewards, strict=True)
        ]

    def _judge(
        self, problem: Problem, group: Sequence[Completion], weights: Mapping[str, float]
    ) -> list[Reward]:
        return self.score([problem] * len(group), group, weights, {})

    def _judge_learned(
        self,
        problems: Sequence[Problem],
        sampled: Sequence[Sequence[Completion]],
        weights: Mapping[str, float],
        learned: Mapping[str, LearnedReward],
    ) -> list[list[Reward]]:
        """Every group at once, with the learned parts of general prompts; 0 for the others."""
        owners = [problem for problem, group in zip(problems, sampled, strict=True) for _ in group]
        completions = [completion for group in sampled for completion in group]
        general = [row for row, problem in enumerate(owners) if problem.domain is Domain.GENERAL]
        extra: dict[str, list[float]] = {}
        for name, model in learned.items():
            extra[name] = [0.0] * len(owners)
            scores = model.score([owners[r].prompt for r in general], [completions[r].text for r in general])
            for row, score in zip(general, scores, strict=True):
                extra[name][row] = score
        flat = iter(self.score(owners, completions, weights, extra))
        return [[next(flat) for _ in group] for group in sampled]


def reward_matrix(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """(rewards_NG float32, signal_NG bool) of judged groups; masked samples carry no signal."""
    rewards = torch.tensor(
        [[reward.total for reward in group.rewards] for group in groups], dtype=torch.float32
    )
    signal = torch.tensor(
        [[not reward.masked for reward in group.rewards] for group in groups], dtype=torch.bool
    )
    return rewards, signal
