"""The sampler says what it did, whatever shares the batch, and never disturbs the training it samples for."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from pipeline_lib.errors import ConfigError, DataError, NonFiniteError, WeightVersionMismatch
from pipeline_lib.rollout import require_version
from pipeline_lib.rollout.decoder import Decoder
from pipeline_lib.rollout.slot_batch import SamplerSwitches
from pipeline_lib.rollout.torch_generator import TorchGenerator
from pipeline_lib.types import Completion, SamplingParams

SAMPLING = SamplingParams(n=6, max_new_tokens=24)


def _run(
    generator: TorchGenerator, prompts, sampling=SAMPLING, seed=5, **callbacks
) -> list[list[Completion]]:
    return generator.generate(
        prompts, [f"p{i}" for i in range(len(prompts))], sampling, seed=seed, **callbacks
    )


def _flat(groups: list[list[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


def _tokens(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


def _reference_logprobs(model, completion: Completion, temperature: float = 1.0) -> torch.Tensor:
    ids = torch.tensor([completion.prompt_ids + completion.token_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0].float() / temperature, -1)
    first = len(completion.prompt_ids)
    return logprobs[first - 1 : -1].gather(-1, ids[0, first:, None]).squeeze(-1)


@pytest.mark.parametrize("max_rows", [256, 8, 1], ids=["one wave", "refilled", "one row"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.95)])
def test_recorded_logprobs_are_transformers_own_over_the_unpadded_text(
    model, tokenizer, prompts, max_rows, temperature, top_p
):
    sampling = SamplingParams(n=4, max_new_tokens=20, temperature=temperature, top_p=top_p)
    groups = _run(TorchGenerator(model, tokenizer, max_rows=max_rows), prompts, sampling)
    assert [len(group) for group in groups] == [4] * len(prompts)
    for completion in _flat(groups):
        expected = _reference_logprobs(model, completion, temperature)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=3e-5)


def test_how_rows_share_batches_does_not_change_what_is_sampled(qwen, tokenizer, prompts):
    many = prompts * 4  # enough waiting work to refill often and to rewind the cache
    whole = _run(TorchGenerator(qwen, tokenizer), many)
    for max_rows in (7, 40):
        assert _tokens(_run(TorchGenerator(qwen, tokenizer, max_rows=max_rows), many)) == _tokens(whole)


@pytest.mark.parametrize("max_rows", [256, 9], ids=["one wave", "several"])
@pytest.mark.parametrize("switch", [field.name for field in fields(SamplerSwitches)])
def test_each_switch_changes_nothing_but_the_work(qwen, tokenizer, prompts, switch, max_rows, monkeypatch):
    """Off against on: the same tokens, log-probabilities up to rounding; off prefills, or steps, more rows."""
    work: dict[str, int] = {}
    prefill, step = Decoder.prefill, Decoder.step

    def counted_prefill(self, ids_BP, *arguments):
        work["prefilled"] += len(ids_BP)
        return prefill(self, ids_BP, *arguments)

    def counted_step(self, ids_B, *arguments):
        work["stepped"] += len(ids_B)
        return step(self, ids_B, *arguments)

    monkeypatch.setattr(Decoder, "prefill", counted_prefill)
    monkeypatch.setattr(Decoder, "step", counted_step)

    def sampled(switches: SamplerSwitches) -> tuple[list[list[Completion]], dict[str, int]]:
        work.update(prefilled=0, stepped=0)
        generator = TorchGenerator(qwen, tokenizer, max_rows=max_rows, switches=switches)
        return _run(generator, prompts * 3), dict(work)

    on, work_on = sampled(SamplerSwitches())
    off, work_off = sampled(SamplerSwitches(**{switch: False}))
    assert _tokens(off) == _tokens(on)
    for one, other in zip(_flat(off), _flat(on), strict=True):
        torch.testing.assert_close(
            torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=0, atol=3e-5
        )
        assert one.finished == other.finished
    if switch == "share_prompts":
        assert work_on["prefilled"] == len(prompts) * 3
        assert work_off["prefilled"] == len(prompts) * 3 * SAMPLING.n
    else:
        assert work_on["stepped"] == sum(len(c.token_ids) - 1 for c in _flat(on))
        assert work_off["stepped"] > 1.2 * work_on["stepped"]


def test_a_long_queue_rewinds_the_cache_and_stays_exact(qwen, tokenizer, prompts, monkeypatch):
    from pipeline_lib.rollout import slot_batch, torch_generator

    rewinds = 0
    original = slot_batch.SlotBatch._rewind

    def counted(batch: slot_batch.SlotBatch) -> None:
        nonlocal rewinds
        rewinds += 1
        original(batch)

    monkeypatch.setattr(torch_generator, "SHIFT_SLACK", 3)
    monkeypatch.setattr(slot_batch.SlotBatch, "_rewind", counted)
    groups = _run(TorchGenerator(qwen, tokenizer, max_rows=7), prompts * 6)
    assert rewinds > 5
    for completion in _flat(groups)[::7]:
        expected = _reference_logprobs(qwen, completion)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=3e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(qwen, tokenizer, prompts):
    generator = TorchGenerator(qwen, tokenizer)
    first = _run(generator, prompts)
    torch.rand(3)  # the global generator is not involved
    assert _run(generator, prompts) == first
    assert _run(TorchGenerator(qwen, tokenizer), prompts) == first
    assert _tokens(_run(generator, prompts, seed=6)) != _tokens(first)


def test_sampling_leaves_the_global_random_state_alone(qwen, tokenizer, prompts):
    before = torch.get_rng_state()
    _run(TorchGenerator(qwen, tokenizer), prompts)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_of_one_prompt_differ(qwen, tokenizer, prompts):
    for group in _run(TorchGenerator(qwen, tokenizer), prompts):
        assert len({completion.token_ids for completion in group}) > 1


def test_greedy_is_transformers_greedy(model, tokenizer, prompts):
    sampling = SamplingParams(n=1, max_new_tokens=16, temperature=0.0)
    for prompt, [completion] in zip(
        prompts, _run(TorchGenerator(model, tokenizer), prompts, sampling), strict=True
    ):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[
            0, len(prompt) :
        ]
        assert list(completion.token_ids) == expected.tolist()


def test_an_end_token_finishes_and_the_limit_cuts(qwen, tokenizer, prompts):
    completions = _flat(
        _run(TorchGenerator(qwen, tokenizer), prompts * 4, SamplingParams(n=8, max_new_tokens=24))
    )
    finished = [c for c in completions if c.finished]
    cut = [c for c in completions if not c.finished]
    assert finished
    assert cut
    assert all(c.token_ids[-1] == 1 and 1 not in c.token_ids[:-1] for c in finished)
    assert all(len(c.token_ids) == 24 and 1 not in c.token_ids for c in cut)
    assert all(len(c.logprobs) == len(c.token_ids) for c in completions)
    assert not any("<eos>" in c.text or "<pad>" in c.text for c in completions)


def test_further_stop_tokens_stop(qwen, tokenizer, prompts):
    sampling = SamplingParams(n=8, max_new_tokens=24, stop_token_ids=(10, 11))
    for completion in _flat(_run(TorchGenerator(qwen, tokenizer), prompts, sampling)):
        assert not {1, 10, 11} & set(completion.token_ids[:-1])
        assert completion.finished == (completion.token_ids[-1] in (1, 10, 11))


def test_groups_are_handed_over_once_each_and_progress_reaches_the_end(qwen, tokenizer, prompts):
    handed: dict[int, list[Completion]] = {}
    progress: list[tuple[int, int]] = []

    def on_group(index: int, group: list[Completion]) -> None:
        assert index not in handed
        handed[index] = group

    groups = _run(
        TorchGenerator(qwen, tokenizer, max_rows=13),
        prompts,
        on_group=on_group,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert [handed[index] for index in range(len(prompts))] == groups
    assert progress[-1] == (30, 30)
    assert progress == sorted(progress)


def test_ids_and_version_travel_with_every_sample(qwen, tokenizer, prompts):
    generator = TorchGenerator(qwen, tokenizer, weight_version=3)
    groups = _run(generator, prompts)
    assert [{c.problem_id for c in group} for group in groups] == [{f"p{i}"} for i in range(len(prompts))]
    assert [{c.prompt_ids for c in group} for group in groups] == [{tuple(p)} for p in prompts]
    require_version(_flat(groups), 3)
    with pytest.raises(WeightVersionMismatch, match="version 3, the trainer is at 4"):
        require_version(_flat(groups), 4)


def test_live_parameters_are_sampled_after_an_update_without_a_copy(qwen, tokenizer, prompts):
    generator = TorchGenerator(qwen, tokenizer)
    before = _run(generator, prompts)
    with torch.no_grad():
        qwen.model.layers[0].mlp.down_proj.weight.mul_(-1)
    generator.update_weights(qwen, 1)
    after = _run(generator, prompts)
    assert _tokens(after) != _tokens(before)
    assert {c.weight_version for c in _flat(after)} == {1}
    torch.testing.assert_close(
        torch.tensor(after[0][0].logprobs), _reference_logprobs(qwen, after[0][0]), rtol=0, atol=3e-5
    )


def test_an_update_to_another_module_samples_from_it(qwen, llama, tokenizer, prompts):
    generator = TorchGenerator(qwen, tokenizer)
    generator.update_weights(llama, 1)
    assert _tokens(_run(generator, prompts)) == _tokens(_run(TorchGenerator(llama, tokenizer), prompts))


@pytest.mark.parametrize("version", [2, 1])
def test_a_version_that_does_not_move_on_is_refused(qwen, tokenizer, version):
    with pytest.raises(WeightVersionMismatch):
        TorchGenerator(qwen, tokenizer, weight_version=2).update_weights(qwen, version)


def test_training_goes_on_as_if_nothing_was_sampled(qwen, tokenizer, prompts):
    def gradient() -> torch.Tensor:
        qwen.zero_grad()
        ids = torch.tensor([prompts[1]])
        qwen(ids, labels=ids).loss.backward()
        return qwen.model.layers[0].self_attn.k_proj.weight.grad.clone()

    qwen.train()
    expected = gradient()
    generator = TorchGenerator(qwen, tokenizer)
    _run(generator, prompts)
    assert qwen.training
    assert all(parameter.requires_grad for parameter in qwen.parameters())
    assert torch.equal(gradient(), expected)


def test_sleep_frees_the_cache_and_the_next_call_samples_the_same(qwen, tokenizer, prompts):
    generator = TorchGenerator(qwen, tokenizer)
    first = _run(generator, prompts)
    generator.sleep()
    assert generator._buffer is None
    generator.wake()
    assert _run(generator, prompts) == first


def test_not_finite_logits_name_the_problem(qwen, tokenizer, prompts):
    with torch.no_grad():
        qwen.model.embed_tokens.weight[prompts[2][0]] = float("nan")
        qwen.lm_head.weight = torch.nn.Parameter(torch.nan_to_num(qwen.lm_head.weight))
    with pytest.raises(NonFiniteError, match="problem p0, sample 0: "):
        _run(TorchGenerator(qwen, tokenizer), [prompts[2]])


def test_logits_that_one_sample_spoils_name_that_sample(qwen, tokenizer, prompts):
    """A token that one sample alone draws, and goes on from, has a NaN for its embedding."""
    qwen.lm_head.weight = torch.nn.Parameter(qwen.lm_head.weight.clone())
    (group,) = _run(TorchGenerator(qwen, tokenizer), [prompts[2]])
    sample, poison = next(
        (index, token)
        for index, drawn in reversed(list(enumerate(group)))
        for token in drawn.token_ids[:-1]
        if token not in prompts[2] and sum(token in other.token_ids for other in group) == 1
    )
    assert sample > 0
    with torch.no_grad():
        qwen.model.embed_tokens.weight[poison] = torch.nan
    with pytest.raises(NonFiniteError, match=f"problem p0, sample {sample}: "):
        _run(TorchGenerator(qwen, tokenizer), [prompts[2]])


def test_what_does_not_fit_the_model_is_refused_before_sampling(qwen, tokenizer, prompts):
    generator = TorchGenerator(qwen, tokenizer)
    with pytest.raises(ConfigError, match=r"max_new_tokens = 112.*129 tokens"):
        _run(generator, prompts, SamplingParams(n=1, max_new_tokens=112))
    with pytest.raises(ConfigError, match="GiB of cache"):
        _run(TorchGenerator(qwen, tokenizer, kv_budget_bytes=1000), prompts)
    with pytest.raises(DataError, match="problem b: its prompt has no tokens"):
        generator.generate([[7], []], ["a", "b"], SAMPLING, seed=0)
    with pytest.raises(ValueError, match="1 prompts but 2"):
        generator.generate([[7]], ["a", "b"], SAMPLING, seed=0)


def test_nothing_to_sample_is_an_empty_answer(qwen, tokenizer):
    assert TorchGenerator(qwen, tokenizer).generate([], [], SAMPLING, seed=0) == []
