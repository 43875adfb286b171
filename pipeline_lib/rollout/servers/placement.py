"""Who computes what, and on what: prompts to servers, servers to ranks, cores and GPUs. Pure functions.

All of it is decided from numbers alone, never from which server happens to be fast today, so the same prompts meet
the same server in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.errors import ConfigError


def deal(lengths: Sequence[int], servers: int) -> list[list[int]]:
    """Indices of prompts for each server: longest first, each to the server with the least so far.

    `lengths` are the prompts' tokens. A group's samples stay together on one server, which reads the prompt once.
    """
    shares: list[list[int]] = [[] for _ in range(servers)]
    load = [(0, 0)] * servers
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        least = min(range(servers), key=lambda server: load[server])
        shares[least].append(index)
        # How long an answer gets is not known beforehand, so groups are counted first and prompt tokens second.
        load[least] = (load[least][0] + 1, load[least][1] + lengths[index])
    return [sorted(share) for share in shares]


def servers_of_rank(servers: int, rank: int, ranks: int) -> list[int]:
    """The servers that one trainer process feeds; each belongs to one rank alone. ConfigError unless all get as many."""
    if servers % ranks:
        raise ConfigError(
            "engine.servers",
            servers,
            f"give a multiple of the {ranks} trainer ranks (engine.world_size): each rank feeds its own servers",
        )
    return list(range(rank, servers, ranks))


def cores_of_server(server: int, servers: int, cores: Sequence[int]) -> list[int]:
    """An equal part of the host's cores, the same in every run; with more servers than cores they share."""
    if servers >= len(cores):
        return [cores[server % len(cores)]]
    each = len(cores) // servers
    return list(cores[server * each : (server + 1) * each])


def gpus_of_server(server: int, gpus_each: int, visible: Sequence[str], ranks: int) -> list[str]:
    """The GPUs of a local server: those after the trainer's own, one for each of its `ranks`.

    `visible` names the host's GPUs as CUDA_VISIBLE_DEVICES does. ConfigError when they do not suffice.
    """
    first = ranks + server * gpus_each
    chosen = list(visible[first : first + gpus_each])
    if len(chosen) < gpus_each:
        raise ConfigError(
            "engine.servers.count",
            server + 1,
            f"server {server} needs {gpus_each} of {len(visible)} GPUs, of which the trainer has {ranks}; start fewer, or "
            "give engine.servers.addresses of servers on other hosts",
        )
    return chosen
