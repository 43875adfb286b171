"""DAPO's dynamic sampling in the loop: flat groups are sampled again from the next problems, a few times (arXiv 2503.14476, eq. 11)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pipeline_lib.algorithms.objectives import objective_named
from pipeline_lib.training.distributed import World
from pipeline_lib.training.grpo import RESAMPLING_ROUNDS, _Loop
from pipeline_lib.training.order import Cursor
from pipeline_lib.training.rollout_step import Group
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Reward, Verdict

PROBLEMS = [Problem(f"p{i}", Domain.MATH, "?") for i in range(100)]


def _group(problem: Problem, rewards: tuple[float, ...]) -> Group:
    completions = tuple(
        Completion(problem.id, (1,), (2,), (-0.5,), "x", True, weight_version=0) for _ in rewards
    )
    judged = tuple(Reward(value, {}, Verdict(Outcome.WRONG), masked=False) for value in rewards)
    return Group(problem, completions, judged)


def _loop(algorithm: str, live: set[str]) -> tuple[_Loop, list[list[str]]]:
    """A loop of four problems a step whose sampler gives variance to the problems in `live` alone; what it was asked for."""
    loop, asked = object.__new__(_Loop), []
    loop.params = SimpleNamespace(problems_per_step=4)
    loop.trainer = SimpleNamespace(objective=objective_named(algorithm))
    loop.context = SimpleNamespace(world=World(0, 1, torch.device("cpu")))
    loop.problems, loop.general = PROBLEMS, []
    loop.reasoning_order, loop.general_order = Cursor(len(PROBLEMS), 0, 0), Cursor(1, 0, 0)
    loop.state = SimpleNamespace(reasoning=0, general=0)

    def groups(problems, attempt):
        asked.append([problem.id for problem in problems])
        return [_group(p, (1.0, 0.0) if p.id in live else (0.1, 0.1)) for p in problems]

    loop._groups = groups
    return loop, asked


def _ids(groups: list[Group]) -> list[str]:
    return [group.problem.id for group in groups]


def test_flat_groups_are_replaced_by_the_next_problems_until_the_batch_is_full():
    order = [PROBLEMS[i].id for i in Cursor(len(PROBLEMS), 0, 0).take(12)]
    live = {order[1], order[2], order[5], order[6]}
    loop, asked = _loop("dapo", live)
    seen, kept, resampled = loop._sample()
    # Two of four are flat, one of the next two is, and one more fills the batch.
    assert asked == [order[:4], order[4:6], order[6:7]]
    assert _ids(kept) == [order[1], order[2], order[5], order[6]]
    assert _ids(seen) == order[:7], "every sampled group counts in the metrics"
    assert resampled == 3
    assert loop.state.reasoning == 7, "the next step goes on with the next problem"


def test_after_a_few_rounds_it_learns_from_what_there_is():
    loop, asked = _loop("dapo", set())
    seen, kept, resampled = loop._sample()
    assert len(asked) == RESAMPLING_ROUNDS
    assert (len(seen), kept, resampled) == (4 * RESAMPLING_ROUNDS, [], 4 * (RESAMPLING_ROUNDS - 1))


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "reinforce", "ppo"])
def test_the_others_sample_once(algorithm):
    loop, asked = _loop(algorithm, set())
    seen, kept, resampled = loop._sample()
    assert len(asked) == 1
    assert _ids(seen) == _ids(kept) == asked[0]
    assert resampled == 0
