"""Rollouts from two real vLLM servers on this machine: numbers, weights, versions, deadlines, and what is killed.

Two local servers are started once for the file (a start takes about 40 s of processor time). The generator that started
them comes first; then a second one is given their addresses, as on a cluster; last, servers are killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from pipeline_lib.errors import WeightVersionMismatch
from pipeline_lib.modeling import load_model, load_tokenizer
from pipeline_lib.params import EngineParams
from pipeline_lib.rollout import build_generator, require_version
from pipeline_lib.rollout.servers.generator import ServersGenerator
from pipeline_lib.rollout.servers.pool import NoServersLeft
from pipeline_lib.types import Completion, SamplingParams
from tests.unit.training.tiny import engine_params, plain_logprobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
BASE = Path(__file__).resolve().parents[2] / "assets/micro/base"
SAMPLING = SamplingParams(n=6, max_new_tokens=24)
PROMPTS = [[10, 20, 30], [7, 8, 9, 11, 12, 13, 14, 15, 16], [31, 32], [40, 41, 42, 43], [5, 6, 7, 8, 9]]
IDS = ["a", "b", "c", "d", "e"]
ROUNDING = 1e-3
"""Nats a token between vLLM's kernels and transformers', both float32."""


def _engine(**servers: object) -> EngineParams:
    vllm = {"kv_cache_gib": 0.25, "gpu_memory_utilization": 0.3, "max_model_len": 256, "enforce_eager": True}
    return EngineParams.model_validate(
        engine_params(rollout="vllm_servers").model_dump() | {"vllm": vllm, "servers": servers}
    )


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_model(BASE)


@pytest.fixture(scope="module")
def local(model) -> Iterator[ServersGenerator]:
    generator = build_generator(_engine(count=2, replacements=2), model, load_tokenizer(BASE))
    assert isinstance(generator, ServersGenerator)
    yield generator
    generator.close()


def _processes(generator: ServersGenerator) -> list[psutil.Process]:
    """Guards and everything below them."""
    guards = [psutil.Process(place.process.guard_pid) for place in generator.pool.places if place.process]
    return [process for guard in guards for process in (guard, *guard.children(recursive=True))]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _server(generator: ServersGenerator, place: int) -> psutil.Process:
    """The HTTP server's own process (the guard's child)."""
    process = generator.pool.places[place].process
    assert process is not None
    return psutil.Process(process.guard_pid).children()[0]


def _flat(groups: list[list[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


def _largest_difference(model, groups: list[list[Completion]], temperature: float = 1.0) -> float:
    with torch.no_grad():
        return max(
            float(
                (plain_logprobs(model, c.prompt_ids, c.token_ids, temperature) - torch.tensor(c.logprobs))
                .abs()
                .max()
            )
            for c in _flat(groups)
        )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_transformers_own(local, model, temperature) -> None:
    sampling = SamplingParams(n=6, max_new_tokens=24, temperature=temperature)
    groups = local.generate(PROMPTS, IDS, sampling, seed=3)
    assert [len(group) for group in groups] == [6] * 5
    assert [group[0].problem_id for group in groups] == IDS
    assert [group[0].prompt_ids for group in groups] == [tuple(prompt) for prompt in PROMPTS]
    assert _largest_difference(model, groups, temperature) < ROUNDING
    require_version(_flat(groups), local.weight_version)


def test_the_seed_of_the_call_decides_every_byte(local) -> None:
    first = local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    assert local.generate(PROMPTS, IDS, SAMPLING, seed=3) == first
    assert local.generate(PROMPTS, IDS, SAMPLING, seed=4) != first
    assert any(len({c.token_ids for c in group}) > 1 for group in first)


def test_equal_prompts_on_two_servers_are_not_drawn_alike(local) -> None:
    groups = local.generate([PROMPTS[1]] * 2, IDS[:2], SAMPLING, seed=3)
    assert [c.token_ids for c in groups[0]] != [c.token_ids for c in groups[1]]


def test_groups_arrive_one_by_one_and_a_callback_that_fails_leaves_nothing_behind(local) -> None:
    handed: dict[int, list[Completion]] = {}
    progress: list[tuple[int, int]] = []
    groups = local.generate(
        PROMPTS, IDS, SAMPLING, seed=3, on_group=handed.__setitem__, on_progress=lambda *p: progress.append(p)
    )
    assert [handed[index] for index in range(5)] == groups
    assert progress == [(6 * done, 30) for done in range(1, 6)]

    def fail(index: int, group: list[Completion]) -> None:
        raise RuntimeError("verifier down")

    with pytest.raises(RuntimeError, match="verifier down"):
        local.generate(PROMPTS, IDS, SAMPLING, seed=3, on_group=fail)
    assert local.generate(PROMPTS, IDS, SAMPLING, seed=3) == groups


def test_an_update_reaches_both_servers_and_no_other_version_is_served(local, model) -> None:
    before = local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    version = local.weight_version + 1
    with torch.no_grad():
        for parameter in model.parameters():  # every parameter: one that is not carried over would show
            parameter.mul_(1.05)
    local.update_weights(model, version)
    after = local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    assert _largest_difference(model, before) > 10 * ROUNDING, "too small a step to tell a stale weight"
    assert _largest_difference(model, after) < ROUNDING
    require_version(_flat(after), version)

    with pytest.raises(WeightVersionMismatch, match="does not move it on"):
        local.update_weights(model, version)
    local.weight_version = version + 1
    try:
        with pytest.raises(
            WeightVersionMismatch, match=f"holds weights of version {version}, the trainer is at"
        ):
            local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    finally:
        local.weight_version = version


def test_a_server_without_the_jobs_key_is_refused(local) -> None:
    from dataclasses import replace

    from pipeline_lib.rollout.servers.client import ServerFailed

    with pytest.raises(ServerFailed, match="answers 401"):
        replace(local.pool.places[0].client, key="wrong").version(5)


def test_a_server_killed_while_it_samples_is_replaced_and_no_group_is_missing(local, model) -> None:
    whole = local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    victim, old = _server(local, 0), local.pool.places[0].client.address
    below = victim.children(recursive=True)
    engine = next(
        process for process in below if "EngineCore" in process.name() + " ".join(process.cmdline())
    )
    engine.suspend()  # it takes its share and owes it for ever: the batch cannot be over before the kill
    killed = False

    def kill(index: int, group: list[Completion]) -> None:
        nonlocal killed
        if not killed:
            victim.kill()
            killed = True

    groups = local.generate(PROMPTS, IDS, SAMPLING, seed=5, on_group=kill)
    assert killed
    assert [len(group) for group in groups] == [6] * 5
    require_version(_flat(groups), local.weight_version)
    assert _largest_difference(model, groups) < ROUNDING
    told = local.metrics()
    assert told["servers_lost"] == 1
    assert told["resampled_prompts"] > 0
    assert not any(_alive(process.pid) for process in below), "its engine lives on"

    deadline = time.monotonic() + 600
    while len(local.pool.ready()) < 2:
        assert time.monotonic() < deadline, "no replacement came"
        time.sleep(1)
    assert local.pool.places[0].client.address != old
    assert local.pool.places[0].client.version(5) == str(local.weight_version)
    assert local.generate(PROMPTS, IDS, SAMPLING, seed=3) == whole, (
        "places decide who draws what, not processes"
    )


def test_a_server_that_stands_still_in_an_update_is_replaced_and_the_new_one_has_the_weights(
    local, model, monkeypatch
) -> None:
    old = local.pool.places[1].client.address
    _server(local, 1).suspend()
    monkeypatch.setattr(local.pool, "_params", local.pool._params.model_copy(update={"update_seconds": 10.0}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.97)
    began = time.monotonic()
    local.update_weights(model, local.weight_version + 1)
    assert 9 < time.monotonic() - began < 60, "the update's own deadline"
    assert local.metrics()["servers_lost"] == 1
    deadline = time.monotonic() + 600
    while len(local.pool.ready()) < 2:
        assert time.monotonic() < deadline, "no replacement came"
        time.sleep(1)
    assert local.pool.places[1].client.address != old
    for place in local.pool.places:
        assert place.client.version(5) == str(local.weight_version)
    groups = local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    require_version(_flat(groups), local.weight_version)
    assert _largest_difference(model, groups) < ROUNDING


def test_a_silent_server_is_replaced_at_its_deadline_and_none_left_is_one_line(local, model) -> None:
    stopped = _server(local, 1)
    os.kill(stopped.pid, signal.SIGSTOP)
    local._silence = 20.0
    groups = local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    assert [len(group) for group in groups] == [6] * 5
    assert local.metrics()["servers_lost"] == 1
    pids = [process.pid for process in _processes(local)]
    assert len(pids) >= 4, "a guard and a server for each place"
    for place in local.pool.places:
        for _ in range(3):  # itself, and what would replace it
            local.pool.lose(place, "killed by the test")
    with pytest.raises(NoServersLeft, match=r"127\.0\.0\.1.*killed by the test.*start the job again") as told:
        local.generate(PROMPTS, IDS, SAMPLING, seed=3)
    assert "\n" not in str(told.value)
    assert not [pid for pid in pids if _alive(pid)], "processes left behind"
