"""What the generator refuses in a server's answer. The rest needs servers: tests/integration/test_vllm_servers.py."""

from __future__ import annotations

import pytest

from pipeline_lib.data.microworld.vocabulary import build_tokenizer
from pipeline_lib.errors import NonFiniteError, WeightVersionMismatch
from pipeline_lib.rollout.servers.client import Sample
from pipeline_lib.rollout.servers.generator import ServersGenerator


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


def test_a_logprob_that_is_not_finite_names_the_problem(at_version_3) -> None:
    with pytest.raises(NonFiniteError, match="problem p"):
        at_version_3._completions([Sample((5, 1), (-0.5, None), "stop", ("3",))], [7], "p")
