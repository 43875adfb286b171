"""What the vLLM sampler refuses in an answer of vLLM's. The rest needs the engine: tests/integration/test_vllm_rollout.py."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from pipeline_lib.data.microworld.vocabulary import build_tokenizer
from pipeline_lib.errors import NonFiniteError
from pipeline_lib.rollout.vllm_generator import VllmGenerator


def _sample(index: int, last: float) -> SimpleNamespace:
    steps = [{token: SimpleNamespace(logprob=value)} for token, value in ((5, -0.5), (1, last))]
    return SimpleNamespace(index=index, token_ids=[5, 1], logprobs=steps, finish_reason="stop")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logprob_that_is_not_finite_names_problem_and_sample(bad: float) -> None:
    """vLLM tells its samples in any order."""
    generator = object.__new__(VllmGenerator)
    generator.weight_version, generator._tokenizer = 0, build_tokenizer()
    output = SimpleNamespace(outputs=[_sample(2, bad), _sample(0, -1.0), _sample(1, -1.0)])
    with pytest.raises(NonFiniteError, match="problem p, sample 2: "):
        generator._completions(output, [7], "p")
    output.outputs[0] = _sample(2, -1.0)
    assert [taken.logprobs for taken in generator._completions(output, [7], "p")] == [(-0.5, -1.0)] * 3
