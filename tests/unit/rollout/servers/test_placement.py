"""Prompts to servers, servers to ranks, cores and GPUs."""

from __future__ import annotations

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.rollout.servers.placement import cores_of_server, deal, gpus_of_server, servers_of_rank


def test_every_prompt_is_dealt_once_and_evenly() -> None:
    lengths = [5, 50, 7, 40, 9, 30, 11]
    shares = deal(lengths, 3)
    assert sorted(index for share in shares for index in share) == list(range(7))
    assert sorted(map(len, shares)) == [2, 2, 3]
    assert deal(lengths, 3) == shares


def test_long_prompts_are_spread() -> None:
    shares = deal([100, 1, 1, 100], 2)
    assert [sum([100, 1, 1, 100][index] for index in share) for share in shares] == [101, 101]


def test_more_servers_than_prompts_leaves_some_idle() -> None:
    assert deal([3], 3) == [[0], [], []]


def test_ranks_own_disjoint_servers() -> None:
    assert [servers_of_rank(6, rank, 3) for rank in range(3)] == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ConfigError, match=r"engine\.servers = 3: give a multiple of the 2 trainer ranks"):
        servers_of_rank(3, 0, 2)


def test_cores_are_shared_out_or_shared() -> None:
    assert [cores_of_server(n, 2, [0, 1, 2, 3, 7]) for n in range(2)] == [[0, 1], [2, 3]]
    assert [cores_of_server(n, 3, [4, 5]) for n in range(3)] == [[4], [5], [4]]


def test_gpus_come_after_the_trainers() -> None:
    visible = [str(n) for n in range(8)]
    assert [gpus_of_server(n, 2, visible, 4) for n in range(2)] == [["4", "5"], ["6", "7"]]
    with pytest.raises(ConfigError, match="server 2 needs 2 of 8 GPUs, of which the trainer has 4"):
        gpus_of_server(2, 2, visible, 4)
