"""The comparison of sampler and trainer: the histogram, the largest difference, and where it becomes an error."""

from __future__ import annotations

import pytest
import torch

from pipeline_lib.training.agreement import (
    EDGES,
    EXACT_TOLERANCE,
    LOOSE_TOLERANCE,
    Agreement,
    SamplerDisagrees,
    measure_agreement,
    require_agreement,
)
from pipeline_lib.training.distributed import World, join_world
from tests.unit.training.tiny import engine_params, on_ranks

ALONE = World(0, 1, torch.device("cpu"))


def test_share_above_each_edge_and_the_largest():
    found = measure_agreement([torch.tensor([0.0, 5e-6, 5e-4]), torch.tensor([0.5])], ALONE)
    assert EDGES == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    assert found.above == (0.75, 0.5, 0.5, 0.25, 0.25, 0.25)
    assert (found.tokens, found.largest) == (4, 0.5)
    assert found.mean == pytest.approx((5e-6 + 5e-4 + 0.5) / 4)


def test_no_tokens_is_no_difference():
    assert measure_agreement([], ALONE) == Agreement(0, 0.0, 0.0, (0.0,) * len(EDGES))


def _on_this_rank():
    world = join_world(engine_params())
    return measure_agreement([torch.tensor([0.0, 0.25])] if world.is_first else [], world)


def test_every_rank_sees_all_ranks_tokens():
    wanted = Agreement(2, 0.25, 0.125, (0.5,) * len(EDGES))
    assert on_ranks(2, _on_this_rank) == [wanted, wanted]


def _agreement(largest: float, mean: float) -> Agreement:
    return Agreement(10, largest, mean, (0.0,) * len(EDGES))


def test_one_token_beyond_the_tolerance_is_an_error_where_both_compute_alike():
    within, beyond = _agreement(EXACT_TOLERANCE, 0.0), _agreement(1.01 * EXACT_TOLERANCE, 0.0)
    require_agreement(within, exact=True, step=3)
    require_agreement(beyond, exact=False, step=3)
    with pytest.raises(SamplerDisagrees, match=r"step 3: a token's log-probability differs by 0.0020 nats"):
        require_agreement(beyond, exact=True, step=3)


def test_the_mean_decides_where_engine_or_precision_differ():
    require_agreement(_agreement(9.0, LOOSE_TOLERANCE), exact=False, step=3)
    with pytest.raises(SamplerDisagrees, match=r"step 3: log-probabilities differ by 2.100 nats on average"):
        require_agreement(_agreement(9.0, 2.1), exact=False, step=3)
