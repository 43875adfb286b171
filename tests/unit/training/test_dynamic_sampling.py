"""DAPO's dynamic sampling in the loop: flat groups are sampled again from the next problems, a few times (arXiv 2503.14476, eq. 11)."""

from __future__ import annotations

import csv
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from pipeline_lib.algorithms.objectives import objective_named
from pipeline_lib.training.distributed import World, join_world
from pipeline_lib.training.grpo import RESAMPLING_ROUNDS, GrpoState, _Loop
from pipeline_lib.training.order import Cursor
from pipeline_lib.training.rollout_step import Group
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Reward, Verdict
from tests.unit.training.tiny import build_world, engine_params, finish_job, grpo_params, grpo_spec, on_ranks

PROBLEMS = [Problem(f"p{i}", Domain.MATH, "?") for i in range(100)]


def _group(problem: Problem, rewards: tuple[float, ...]) -> Group:
    completions = tuple(
        Completion(problem.id, (1,), (2,), (-0.5,), "x", True, weight_version=0) for _ in rewards
    )
    judged = tuple(Reward(value, {}, Verdict(Outcome.WRONG), masked=False) for value in rewards)
    return Group(problem, completions, judged)


class _Sampler:
    """Gives variance to the problems in `live` alone, and remembers what it was asked for."""

    def __init__(self, live: set[str]) -> None:
        self.live = live
        self.asked: list[list[str]] = []
        self.seeds: list[int] = []

    def groups(self, problems, *, seed, version, weights, learned):
        self.asked.append([problem.id for problem in problems])
        self.seeds.append(seed)
        return [_group(p, (1.0, 0.0) if p.id in self.live else (0.1, 0.1)) for p in problems]


def _loop(algorithm: str, live: set[str], world: World | None = None) -> tuple[_Loop, _Sampler]:
    """A loop of four problems a step without a model; its sampler is the second."""
    loop, sampler = object.__new__(_Loop), _Sampler(live)
    loop.params = grpo_params(algorithm=algorithm, problems_per_step=4)
    loop.trainer = SimpleNamespace(
        objective=objective_named(algorithm), engine=SimpleNamespace(whole_weights=nullcontext)
    )
    loop.context = SimpleNamespace(world=world or World(0, 1, torch.device("cpu")), spec=grpo_spec())
    loop.problems, loop.general, loop.learned = PROBLEMS, [], {}
    loop.reasoning_order, loop.general_order = Cursor(len(PROBLEMS), 0, 0), Cursor(1, 0, 0)
    loop.state, loop.sampler = GrpoState(), sampler
    return loop, sampler


def _order(count: int) -> list[str]:
    return [PROBLEMS[i].id for i in Cursor(len(PROBLEMS), 0, 0).take(count)]


def _ids(groups: list[Group]) -> list[str]:
    return [group.problem.id for group in groups]


def test_flat_groups_are_replaced_by_the_next_problems_until_the_batch_is_full():
    order = _order(7)
    loop, sampler = _loop("dapo", {order[1], order[2], order[5], order[6]})
    seen, kept, resampled = loop._sample()
    # Two of four are flat, one of the next two is, and one more fills the batch.
    assert sampler.asked == [order[:4], order[4:6], order[6:7]]
    assert len(set(sampler.seeds)) == 3, (
        "a round that drew the same numbers again would sample the same answers"
    )
    assert _ids(kept) == [order[1], order[2], order[5], order[6]]
    assert _ids(seen) == order[:7], "every sampled group counts in the metrics"
    assert resampled == 3
    assert loop.state.reasoning == 7, "the next step goes on with the next problem"


def test_after_a_few_rounds_it_learns_from_what_there_is():
    loop, sampler = _loop("dapo", set())
    seen, kept, resampled = loop._sample()
    assert len(sampler.asked) == RESAMPLING_ROUNDS > 2
    assert (len(seen), kept, resampled) == (4 * RESAMPLING_ROUNDS, [], 4 * (RESAMPLING_ROUNDS - 1))


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "reinforce", "ppo"])
def test_the_others_sample_once(algorithm):
    loop, sampler = _loop(algorithm, set())
    seen, kept, resampled = loop._sample()
    assert sampler.asked == [_order(4)]
    assert _ids(seen) == _ids(kept) == sampler.asked[0]
    assert resampled == 0


def _on_a_rank(live: set[str]) -> tuple[list[list[str]], list[str], list[str], int]:
    engine = engine_params(world_size=2)
    loop, sampler = _loop("dapo", live, join_world(engine))
    seen, kept, resampled = loop._sample()
    return sampler.asked, _ids(seen), _ids(kept), resampled


def test_ranks_refill_one_batch_together():
    """What is missing is counted over both ranks, though all that has variance is on the second."""
    order = _order(7)
    first, second = on_ranks(2, lambda: _on_a_rank({order[1], order[3], order[5], order[6]}))
    assert first == ([[order[0], order[2]], [order[4]], [order[6]]], [*order[:5:2], order[6]], [order[6]], 3)
    assert second[0] == [[order[1], order[3]], [order[5]], []]
    assert second[1:] == ([order[1], order[3], order[5]], [order[1], order[3], order[5]], 3)


def test_a_job_counts_what_it_sampled_and_learns_from_what_has_variance(tmp_path):
    """With a KL term: a flat group that was not left out would be trained on."""
    build_world(tmp_path)
    finish_job(tmp_path, grpo_spec(steps=3, algorithm="dapo", kl_coef=0.01))
    with (tmp_path / "plot.csv").open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert sum(row["zero_variance_groups"] for row in rows) > 0
    for row in rows:
        groups, flat = 4 + row["resampled_groups"], row["zero_variance_groups"]
        assert groups - flat <= 4
        assert sum(value for name, value in row.items() if name.startswith("verdict_")) == groups * 4
        tokens = round(groups * 4 * row["length"])
        assert tokens - flat * 4 * 12 <= row["trained_tokens"] <= tokens - flat * 4
