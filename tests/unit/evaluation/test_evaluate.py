"""Judged samples in, numbers out; and a real model through the real sampler, twice the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import DataError
from pipeline_lib.evaluation import EvaluationReport, evaluate_model, load_suite, read_report, write_report
from pipeline_lib.evaluation.evaluate import JudgedSample, summarise
from pipeline_lib.types import Completion, Domain, Outcome, Problem, SamplingParams, Verdict


def sample(
    problem: Problem, text: str, outcome: Outcome, answer: str | None, finished: bool = True
) -> JudgedSample:
    tokens = tuple(range(len(text)))
    completion = Completion(problem.id, (1,), tokens, (0.0,) * len(tokens), text, finished)
    return JudgedSample(problem, completion, Verdict(outcome, answer))


@pytest.fixture
def judged() -> list[list[JudgedSample]]:
    one, two = (Problem(f"p{i}", Domain.MATH, "2+2", "4", category="chain") for i in (1, 2))
    good = "<think>so 4 check 4</think><answer>4</answer>"
    mixed = "<think>so 4 得 得 得</think><answer>4</answer>"
    bare = "4"
    return [
        [
            sample(one, good, Outcome.CORRECT, "4"),
            sample(one, good, Outcome.CORRECT, "4"),
            sample(one, mixed, Outcome.CORRECT, "4"),
            sample(one, bare, Outcome.WRONG, None, finished=False),
        ],
        [
            sample(two, good.replace("4</a", "5</a"), Outcome.WRONG, "5"),
            sample(two, good.replace("4</a", "5</a"), Outcome.WRONG, "5"),
            sample(two, good, Outcome.CORRECT, "4"),
            sample(two, good, Outcome.TIMEOUT, "4"),
        ],
    ]


def test_the_numbers_of_a_suite(judged: list[list[JudgedSample]]) -> None:
    report = summarise(load_suite("micro_math"), judged, SamplingParams(4, 64, 0.6, 0.95))
    assert report.pass_at_1.mean == (0.75 + 0.25) / 2
    assert report.pass_at_k.mean == 1.0
    assert report.cons_at_k is not None
    assert report.cons_at_k.mean == pytest.approx((1.0 + 0.5) / 2)
    assert report.format_rate == 7 / 8
    assert report.finished_rate == 7 / 8
    assert report.mixing_share == 1 / 8
    assert report.language_share == pytest.approx((7 + 1 / 4) / 8)
    assert report.verification_share == 6 / 8
    assert report.unjudged_share == 1 / 8
    assert report.outcomes == {"correct": 4, "wrong": 3, "timeout": 1}
    assert report.by_category == {"chain": 0.5}
    assert (report.correct_counts, report.per_problem) == ([3, 1], [0.75, 0.25])


def test_a_report_survives_its_file_and_writes_the_same_bytes(
    judged: list[list[JudgedSample]], tmp_path: Path
) -> None:
    suites = {
        name: summarise(load_suite(name), judged, SamplingParams(4, 64))
        for name in ("micro_math", "micro_general")
    }
    report = EvaluationReport("r1", 7, suites)
    write_report(tmp_path / "a.json", report)
    read = read_report(tmp_path / "a.json")
    assert read == report
    write_report(tmp_path / "b.json", read)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read.reasoning_score == read.general_score == 0.5
    assert read.metrics()["micro_math/pass_at_1_mean"] == 0.5
    assert read.metrics()["micro_math/cons_at_k_low"] <= 0.75


def test_a_missing_or_foreign_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"repro evaluate@none"):
        read_report(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(DataError, match="not an evaluation report"):
        read_report(tmp_path / "odd.json")


@pytest.fixture(scope="module")
def micro() -> Any:
    """An untrained model of the micro world's shape, its tokenizer and held-out problems."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from pipeline_lib.data import microworld
    from pipeline_lib.rollout.torch_generator import TorchGenerator
    from pipeline_lib.types import Split

    tokenizer = microworld.build_tokenizer()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    return TorchGenerator(model, tokenizer), tokenizer, microworld.problems("math", 6, 0, Split.HELDOUT)


def test_a_real_model_gives_the_same_report_for_the_same_seed(micro: Any) -> None:
    generator, tokenizer, problems = micro
    suite, sampling = load_suite("micro_math"), SamplingParams(3, 16)
    one = evaluate_model(generator, tokenizer, suite, problems, 7, sampling=sampling)
    assert one == evaluate_model(generator, tokenizer, suite, problems, 7, sampling=sampling)
    assert one != evaluate_model(generator, tokenizer, suite, problems, 8, sampling=sampling)
    assert (one.problems, one.samples) == (6, 3)
    assert sum(one.outcomes.values()) == 18
