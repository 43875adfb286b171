"""What the generator refuses in a server's answer. The rest needs servers: tests/integration/test_vllm_servers.py."""

from __future__ import annotations

import pytest

from pipeline_lib.data.microworld.vocabulary import build_tokenizer
from pipeline_lib.errors import ConfigError, NonFiniteError, WeightVersionMismatch
from pipeline_lib.params.engine import ServersParams
from pipeline_lib.rollout.servers.client import Sample
from pipeline_lib.rollout.servers.generator import ServersGenerator
from tests.unit.training.tiny import engine_params


@pytest.fixture
def at_version_3() -> ServersGenerator:
    """A generator without servers: only its reading of answers is under test."""
    generator = object.__new__(ServersGenerator)
    generator.weight_version, generator._tokenizer = 3, build_tokenizer()
    return generator


def test_a_sample_of_the_present_weights_is_taken(at_version_3) -> None:
    (taken,) = at_version_3._completions([Sample((5, 1), (-0.5, -1.0), "stop", ("3",))], [7], "p")
    assert (taken.token_ids, taken.logprobs, taken.prompt_ids) == ((5, 1), (-0.5, -1.0), (7,))
    assert taken.finished
    assert taken.weight_version == 3


@pytest.mark.parametrize("versions", [("2",), ("2", "3"), ()])
def test_a_token_of_other_weights_is_an_error(at_version_3, versions) -> None:
    with pytest.raises(
        WeightVersionMismatch, match=r"problem p: sampled from weights of version .*the trainer is at 3"
    ):
        at_version_3._completions([Sample((5, 1), (-0.5, -1.0), "stop", versions)], [7], "p")


def test_a_logprob_that_is_not_finite_names_problem_and_sample(at_version_3) -> None:
    samples = [Sample((5, 1), (-0.5, last), "stop", ("3",)) for last in (-1.0, None, None)]
    with pytest.raises(NonFiniteError, match="problem p, sample 1: "):
        at_version_3._completions(samples, [7], "p")


def _open(address: str, weights: str) -> ServersGenerator:
    servers = ServersParams(addresses=[address], weights_dir=weights, start_seconds=1.0)
    return ServersGenerator(
        engine_params(rollout="vllm_servers", servers=servers),
        build_tokenizer(),
        config={"max_position_embeddings": 4096},
        ends=[1],
        weight_version=0,
    )


def test_where_others_trigger_runs_they_name_no_server_and_no_directory_of_their_own(
    tmp_path, monkeypatch
) -> None:
    """The server would be sent the weights and VLLM_API_KEY; in the directory files would be written and removed."""
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed, other):
        folder.mkdir()
        (folder / "rollout-weights-0-1.safetensors").touch()
    monkeypatch.setenv("R1_ALLOWED_DIRS", str(allowed))
    with pytest.raises(ConfigError, match=r"engine\.servers\.addresses = '127.0.0.1:9'.*R1_ROLLOUT_SERVERS"):
        _open("127.0.0.1:9", str(allowed))
    monkeypatch.setenv("R1_ROLLOUT_SERVERS", "10.0.0.7:8001, 127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"engine\.servers\.weights_dir = .*R1_ALLOWED_DIRS"):
        _open("127.0.0.1:9", str(other))
    assert list(other.iterdir())
    _open("127.0.0.1:9", str(allowed)).close()
    assert not list(allowed.iterdir())
