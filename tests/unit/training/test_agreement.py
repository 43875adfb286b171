"""The comparison of sampler and trainer: the histogram, the largest difference, and where it becomes an error."""

from __future__ import annotations

import pytest
import torch

from pipeline_lib.training.agreement import (
    EDGES,
    EXACT_TOLERANCE,
    KERNEL_TOLERANCE,
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
    require_agreement(within, rollout="torch", dtype="float32", step=3)
    require_agreement(beyond, rollout="torch", dtype="bfloat16", step=3)
    require_agreement(beyond, rollout="vllm", dtype="float32", step=3)
    with pytest.raises(SamplerDisagrees, match=r"step 3: a token's log-probability differs by 0.0020 nats"):
        require_agreement(beyond, rollout="torch", dtype="float32", step=3)


@pytest.mark.parametrize("rollout", ["torch", "vllm", "vllm_servers"])
def test_the_mean_decides_where_the_precision_differs(rollout):
    require_agreement(_agreement(9.0, LOOSE_TOLERANCE), rollout=rollout, dtype="bfloat16", step=3)
    with pytest.raises(SamplerDisagrees, match=r"step 3: log-probabilities differ by 2.100 nats on average"):
        require_agreement(_agreement(9.0, 2.1), rollout=rollout, dtype="bfloat16", step=3)


@pytest.mark.parametrize("rollout", ["vllm", "vllm_servers"])
def test_another_engine_in_float32_is_held_well_below_a_head_that_was_left_behind(rollout):
    """Decision 0006: vLLM's tied head kept its old weights, and log-probabilities were off by 0.3 to 0.5."""
    require_agreement(_agreement(9.0, KERNEL_TOLERANCE), rollout=rollout, dtype="float32", step=3)
    for mean in (1.1 * KERNEL_TOLERANCE, 0.3):
        with pytest.raises(SamplerDisagrees, match=r"step 3: .* on average .*tolerance 0.02"):
            require_agreement(_agreement(9.0, mean), rollout=rollout, dtype="float32", step=3)


def test_what_was_not_compared_has_no_difference():
    nothing = measure_agreement([], ALONE)
    assert nothing.metrics() == {"logprobs_compared": 0.0}
    assert nothing.histogram() == {}
    same = measure_agreement([torch.zeros(2)], ALONE)
    assert same.metrics() == {"logprobs_compared": 2.0, "logprob_diff_max": 0.0, "logprob_diff_mean": 0.0}
    assert list(same.histogram().values()) == [0.0] * len(EDGES)
