"""The vLLM path for real, on the CPU: the same numbers as transformers, live weight updates, versions.

One engine serves the whole file (it takes about 30 s to import and start). vLLM keeps state for a whole
process, so what needs a second engine runs in a second process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline_lib.errors import ConfigError, DataError, WeightVersionMismatch
from pipeline_lib.modeling import save_model
from pipeline_lib.params import EngineParams
from pipeline_lib.rollout import Generator, build_generator, open_generator, require_version
from pipeline_lib.rollout.torch_generator import TorchGenerator
from pipeline_lib.types import Completion, SamplingParams

pytestmark = pytest.mark.slow

SAMPLING = SamplingParams(n=6, max_new_tokens=24)
PROMPTS = [
    [10, 20, 30],
    [7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29],
    [31, 32],
]
IDS = ["a", "b", "c"]


def _engine(**vllm: object) -> EngineParams:
    settings = {
        "kv_cache_gib": 0.25,
        "gpu_memory_utilization": 0.3,
        "max_model_len": 128,
        "enforce_eager": True,
    }
    return EngineParams.model_validate(
        {
            "rollout": "vllm",
            "world_size": 1,
            "zero_stage": 0,
            "dtype": "float32",
            "offload": "none",
            "threads": 1,
            "launcher": "local",
            "vllm": {**settings, **vllm},
        }
    )


def _tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "<eos>", *map(chr, range(48, 108))]
    raw = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")


def _model(seed: int = 0):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=62,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else 0.2 * noise)
    return model


@pytest.fixture(scope="module")
def started():
    """(generator, the live model it follows, what the start must have left alone)."""
    model, state, environment = _model(), torch.get_rng_state(), dict(os.environ)
    set_num_threads = torch.set_num_threads
    generator = build_generator(_engine(), model, _tokenizer())
    untouched = {
        "random state": torch.equal(torch.get_rng_state(), state),
        "LD_PRELOAD": os.environ.get("LD_PRELOAD") == environment.get("LD_PRELOAD"),
        "LOCAL_WORLD_SIZE": os.environ.get("LOCAL_WORLD_SIZE") == environment.get("LOCAL_WORLD_SIZE"),
        "set_num_threads": torch.set_num_threads is set_num_threads,
    }
    yield generator, model, untouched
    generator.close()


@pytest.fixture
def generator(started) -> Generator:
    return started[0]


@pytest.fixture
def model(started):
    return started[1]


def _flat(groups: list[list[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


def _largest_difference(model, groups: list[list[Completion]], temperature: float = 1.0) -> float:
    largest = 0.0
    for completion in _flat(groups):
        ids = torch.tensor([completion.prompt_ids + completion.token_ids])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0] / temperature, -1)
        first = len(completion.prompt_ids)
        expected = logprobs[first - 1 : -1].gather(-1, ids[0, first:, None]).squeeze(-1)
        largest = max(largest, (expected - torch.tensor(completion.logprobs)).abs().max().item())
    return largest


def test_starting_the_engine_changes_nothing_else_in_the_process(started):
    assert all(started[2].values()), started[2]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_transformers_own(generator, model, temperature):
    sampling = SamplingParams(n=6, max_new_tokens=24, temperature=temperature)
    groups = generator.generate(PROMPTS, IDS, sampling, seed=3)
    assert [len(group) for group in groups] == [6, 6, 6]
    assert _largest_difference(model, groups, temperature) < 1e-4


def test_greedy_text_is_the_torch_samplers(generator, model):
    sampling = SamplingParams(n=1, max_new_tokens=24, temperature=0.0)
    ours = TorchGenerator(model, _tokenizer()).generate(PROMPTS, IDS, sampling, seed=0)
    vllms = generator.generate(PROMPTS, IDS, sampling, seed=0)
    assert [[(c.token_ids, c.text, c.finished) for c in group] for group in vllms] == [
        [(c.token_ids, c.text, c.finished) for c in group] for group in ours
    ]


def test_the_seed_of_the_call_decides_and_the_callers_random_state_stays(generator):
    before = torch.get_rng_state()
    first = generator.generate(PROMPTS, IDS, SAMPLING, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert generator.generate(PROMPTS, IDS, SAMPLING, seed=3) == first
    assert generator.generate(PROMPTS, IDS, SAMPLING, seed=4) != first
    assert all(len({c.token_ids for c in group}) > 1 for group in first)


def test_a_weight_update_changes_the_samples_and_their_version(generator, model):
    before = generator.generate(PROMPTS, IDS, SAMPLING, seed=3)
    version = generator.weight_version
    with torch.no_grad():
        for parameter in model.parameters():  # every parameter: one that is not carried over would show
            parameter.mul_(1.1)
        model.model.layers[1].mlp.down_proj.weight.neg_()
    generator.update_weights(model, version + 1)
    after = generator.generate(PROMPTS, IDS, SAMPLING, seed=3)
    assert [c.token_ids for c in _flat(after)] != [c.token_ids for c in _flat(before)]
    assert _largest_difference(model, after) < 1e-4
    require_version(_flat(after), version + 1)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_versions_that_disagree_are_an_error(generator, model):
    with pytest.raises(WeightVersionMismatch, match="does not move it on"):
        generator.update_weights(model, generator.weight_version)
    held = generator._llm.get_weight_version()
    generator._llm.update_weight_version("999")
    try:
        with pytest.raises(WeightVersionMismatch, match="vLLM holds weights of version 999"):
            generator.generate(PROMPTS, IDS, SAMPLING, seed=0)
    finally:
        generator._llm.update_weight_version(held)


def test_groups_arrive_once_and_end_and_stop_tokens_finish(generator):
    handed: dict[int, list[Completion]] = {}
    progress: list[tuple[int, int]] = []
    sampling = SamplingParams(n=16, max_new_tokens=24, stop_token_ids=(5, 6))
    groups = generator.generate(
        PROMPTS, IDS, sampling, seed=1, on_group=handed.__setitem__, on_progress=lambda *p: progress.append(p)
    )
    assert [handed[index] for index in range(3)] == groups
    assert progress[-1] == (48, 48)
    for completion in _flat(groups):
        assert completion.finished == (completion.token_ids[-1] in (1, 5, 6))
        assert not {1, 5, 6} & set(completion.token_ids[:-1])
        assert len(completion.logprobs) == len(completion.token_ids)
    assert any(c.finished for c in _flat(groups))


def test_a_callback_that_fails_leaves_no_request_behind(generator):
    def fail(index: int, group: list[Completion]) -> None:
        raise RuntimeError("verifier down")

    with pytest.raises(RuntimeError, match="verifier down"):
        generator.generate(PROMPTS, IDS, SAMPLING, seed=1, on_group=fail)
    assert not generator._llm.llm_engine.has_unfinished_requests()
    assert len(_flat(generator.generate(PROMPTS, IDS, SAMPLING, seed=1))) == 18


def test_what_does_not_fit_is_refused_before_sampling(generator, tmp_path):
    with pytest.raises(ConfigError, match=r"max_new_tokens = 120.*141 tokens.*max_model_len"):
        generator.generate(PROMPTS, IDS, SamplingParams(n=1, max_new_tokens=120), seed=0)
    with pytest.raises(DataError, match="no such model directory"):
        open_generator(tmp_path / "nothing", _engine())
    save_model(_model(), _tokenizer(), tmp_path / "m")
    with pytest.raises(ConfigError, match=r"engine\.vllm\.max_model_len = 500: the model has 128"):
        open_generator(tmp_path / "m", _engine(max_model_len=500))


SECOND_PROCESS = """
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from pipeline_lib.params import EngineParams
from pipeline_lib.rollout import open_generator
from pipeline_lib.types import SamplingParams
engine = EngineParams.model_validate_json({engine!r})
generator = open_generator(Path({model!r}), engine)
groups = generator.generate({prompts!r}, {ids!r}, SamplingParams(n=6, max_new_tokens=24), seed=3)
print("RESULT" + json.dumps([[[c.token_ids, c.logprobs] for c in group] for group in groups]))
"""


def test_another_process_samples_the_same_bytes(generator, model, tmp_path):
    save_model(model, _tokenizer(), tmp_path / "m")
    here = generator.generate(PROMPTS, IDS, SAMPLING, seed=3)
    code = SECOND_PROCESS.format(
        root=str(Path(__file__).parents[2]),
        engine=_engine().model_dump_json(),
        model=str(tmp_path / "m"),
        prompts=PROMPTS,
        ids=IDS,
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    there = json.loads(
        next(line for line in output.splitlines() if line.startswith("RESULT"))[len("RESULT") :]
    )
    assert there == [[[list(c.token_ids), list(c.logprobs)] for c in group] for group in here]
