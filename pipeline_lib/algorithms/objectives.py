"""Choosing an objective by its name in params (`algorithm:`). Adding one is adding a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline_lib.algorithms.advantages import centered, zscore
from pipeline_lib.algorithms.aggregation import Totals
from pipeline_lib.algorithms.dapo import dapo_loss
from pipeline_lib.algorithms.dr_grpo import dr_grpo_loss
from pipeline_lib.algorithms.grpo import grpo_loss
from pipeline_lib.algorithms.policy import PolicyLoss, PolicySettings, PolicyTerms
from pipeline_lib.algorithms.ppo import ppo_loss
from pipeline_lib.algorithms.reinforce import reinforce_loss

LossFunction = Callable[[PolicyTerms, PolicySettings, Totals], PolicyLoss]


@dataclass(frozen=True, slots=True)
class Objective:
    """How one algorithm turns rewards into advantages and log-probabilities into a loss."""

    loss: LossFunction
    advantages: Callable[[Tensor, Tensor], Tensor]
    """(rewards_NG, signal_NG) -> advantages_NG. With a critic: unused, GAE gives one a token."""
    dynamic_sampling: bool = False
    """DAPO: replace groups without variance by freshly sampled ones."""
    critic: bool = False
    """PPO: a value model gives the baseline."""


OBJECTIVES: dict[str, Objective] = {
    "grpo": Objective(grpo_loss, zscore),
    "dapo": Objective(dapo_loss, zscore, dynamic_sampling=True),
    "dr_grpo": Objective(dr_grpo_loss, centered),
    "reinforce": Objective(reinforce_loss, centered),
    "ppo": Objective(ppo_loss, centered, critic=True),
}


def objective_named(name: str) -> Objective:
    """The objective called `name`; ValueError names the known ones."""
    if name not in OBJECTIVES:
        raise ValueError(f"algorithm {name!r} is unknown: use one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
