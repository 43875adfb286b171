"""A tiny world for training tests: random models of both families, real tokenizer, real files, synthetic rollouts."""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from pipeline_lib.data import microworld
from pipeline_lib.data.microworld.vocabulary import build_tokenizer
from pipeline_lib.data.schema import SftSample, write_preferences, write_problems, write_safety, write_samples
from pipeline_lib.modeling import save_model
from pipeline_lib.params import EngineParams, GrpoParams, VllmParams
from pipeline_lib.training.rollout_step import Group
from pipeline_lib.training.spec import JobSpec
from pipeline_lib.types import Completion, Domain, Outcome, Problem, Reward, Verdict

torch.set_num_threads(1)


def engine_params(**overrides: Any) -> EngineParams:
    vllm = VllmParams(kv_cache_gib=1, gpu_memory_utilization=0.5, max_model_len=256, enforce_eager=True)
    values = {
        "rollout": "torch",
        "world_size": 1,
        "zero_stage": 0,
        "dtype": "float32",
        "offload": "none",
        "threads": 1,
        "launcher": "local",
        "vllm": vllm,
    }
    return EngineParams(**{**values, **overrides})


def grpo_params(**overrides: Any) -> GrpoParams:
    values = {
        "steps": 4,
        "problems_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 12,
        "learning_rate": 1e-3,
        "kl_coef": 0.0,
        "microbatch_tokens": 256,
        "checkpoint_every": 2,
        "sample_rows": 4,
    }
    return GrpoParams(**{**values, **overrides})


def tiny_model(family: str = "qwen", seed: int = 0, vocab: int | None = None) -> PreTrainedModel:
    """Every parameter random, so that a forgotten bias or norm shows."""
    shape: dict[str, Any] = {
        "vocab_size": vocab or len(build_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    if family == "qwen":
        model: PreTrainedModel = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False, head_dim=12))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else 0.2 * noise)
    return model.eval()


def plain_logprobs(
    model: PreTrainedModel, prompt: Any, completion: Any, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities of one completion by transformers' own forward, one unpadded row."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(list(completion))[:, None]).squeeze(-1)


def groups_of(
    model: PreTrainedModel, rewards: list[list[float | None]], *, seed: int = 0, temperature: float = 1.0
) -> list[Group]:
    """Random completions with the given rewards (None: masked) and the model's own log-probabilities."""
    draw = random.Random(seed)
    result = []
    for index, row in enumerate(rewards):
        prompt = tuple(draw.randrange(2, 40) for _ in range(draw.randrange(2, 9)))
        completions, judged = [], []
        for reward in row:
            tokens = tuple(draw.randrange(2, 40) for _ in range(draw.choice([1, 2, 5, 9, 12])))
            with torch.no_grad():
                logprobs = plain_logprobs(model, prompt, tokens, temperature)
            completions.append(
                Completion(f"p{index}", prompt, tokens, tuple(logprobs.tolist()), "x", True, weight_version=0)
            )
            outcome = Outcome.TIMEOUT if reward is None else Outcome.CORRECT if reward >= 1 else Outcome.WRONG
            judged.append(Reward(reward or 0.0, {}, Verdict(outcome), masked=reward is None))
        problem = Problem(f"p{index}", Domain.MATH, "?")
        result.append(Group(problem, tuple(completions), tuple(judged)))
    return result


def build_world(root: Path, family: str = "qwen") -> None:
    """models/base and every data file a training job reads."""
    save_model(tiny_model(family), build_tokenizer(), root / "models" / "base")
    write_problems(root / "data/hard/train.parquet", microworld.problems("math", 24, 1))
    write_problems(root / "data/problems/general.parquet", microworld.problems("general", 12, 1))
    write_preferences(root / "data/problems/preferences.parquet", microworld.preference_pairs(24, 1))
    write_safety(root / "data/problems/safety.parquet", microworld.safety_examples(24, 1))
    samples = [
        SftSample(
            f"s{i}", problem.id, problem.domain, problem.prompt,
            f"<think>so {problem.answer}</think><answer>{problem.answer}</answer>", Outcome.CORRECT, "en", "test",
        )
        for i, problem in enumerate(microworld.problems("math", 20, 2))
    ]  # fmt: skip
    write_samples(root / "data/cold_start/train.parquet", samples)


def grpo_spec(**overrides: Any) -> JobSpec:
    """A job whose weights move: no random model finds an answer, but some of its words are English, and those are paid for."""
    overrides = {"rewards": {"accuracy": 1.0, "format": 0.1, "language": 1.0}, **overrides}
    engine = engine_params(**overrides.pop("engine", {}))
    return JobSpec(
        kind="grpo",
        stage="train_r1_zero",
        seed=3,
        section=grpo_params(**overrides).model_dump(mode="json"),
        engine=engine.model_dump(mode="json"),
        inputs={"model": "models/base", "problems": "data/hard/train.parquet"},
        outputs={"model": "models/r1_zero", "plot": "plot.csv", "rollouts": "rollouts.parquet"},
    )


def sft_spec(**overrides: Any) -> JobSpec:
    section = {
        "epochs": 2, "batch_size": 5, "learning_rate": 1e-3, "final_lr_ratio": 0.1, "warmup_ratio": 0.1,
        "weight_decay": 0.01, "max_grad_norm": 1.0, "max_tokens": 200, "microbatch_tokens": 256, "checkpoint_every": 2,
        **overrides,
    }  # fmt: skip
    return JobSpec(
        kind="sft",
        stage="train_cold_start_sft",
        seed=3,
        section=section,
        engine=engine_params().model_dump(mode="json"),
        inputs={"model": "models/base", "problems": "data/cold_start/train.parquet"},
        outputs={"model": "models/cold_start", "plot": "plot.csv"},
    )


def start_job(
    root: Path, spec: JobSpec, prepare: Callable[[], None] | None = None
) -> multiprocessing.Process:
    """The real job in a process of its own (forked: the libraries are already imported). Its folder is root/job."""
    folder = root / "job"
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(spec.to_json())
    process = multiprocessing.get_context("fork").Process(target=_job, args=(root, folder, prepare))
    process.start()
    return process


def _job(root: Path, folder: Path, prepare: Callable[[], None] | None) -> None:
    from pipeline_lib.errors import PipelineError
    from pipeline_lib.training import job

    os.chdir(root)
    os.environ.pop("R1_MLFLOW_JOURNAL", None)
    try:
        if prepare:
            prepare()
        job.run(folder)
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}")
        os._exit(error.exit_code)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish_job(root: Path, spec: JobSpec, prepare: Callable[[], None] | None = None) -> None:
    """Run the job to its end; fails the test if it fails."""
    process = start_job(root, spec, prepare)
    process.join()
    assert process.exitcode == 0, f"the job ended with {process.exitcode}"


def steps_sampled_alike(root: Path, count: int, nats: float) -> list[dict[str, str]]:
    """The rows of a job's plot; in each that compared any, no token is further than that between sampler and trainer."""
    with (root / "plot.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    compared = [row for row in rows if float(row["logprobs_compared"])]
    assert compared
    assert all(float(row["logprob_diff_max"]) < nats for row in compared)
    return rows


def on_ranks(size: int, function: Callable[[], Any]) -> list[Any]:
    """`function()` on `size` forked ranks that form a gloo world; what each returned, by rank.

    Tests use it for one rank too: DeepSpeed keeps its process groups in module globals, so a process that has
    been in one world (and every fork of it) cannot enter another.
    """
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, size, port, function, queue)) for rank in range(size)]
    for process in ranks:
        process.start()
    answers = dict(queue.get(timeout=300) for _ in ranks)
    for process in ranks:
        process.join(timeout=60)
    failed = [answer for answer in answers.values() if isinstance(answer, BaseException)]
    if failed:
        raise failed[0]
    return [_mapped(answers[rank], np.ndarray, torch.from_numpy) for rank in range(size)]


def _mapped(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """`value` with every `kind` in its containers converted: a queue sends tensors as file descriptors, which die."""
    if isinstance(value, kind):
        return convert(value)
    if isinstance(value, dict):
        return {key: _mapped(item, kind, convert) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(item, kind, convert) for item in value)
    return value


def _rank(rank: int, size: int, port: int, function: Callable[[], Any], queue: Any) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    try:
        answer: Any = function()
    except BaseException as error:
        traceback.print_exc()
        answer = RuntimeError(f"{type(error).__name__}: {error}")
    queue.put((rank, _mapped(answer, torch.Tensor, lambda tensor: tensor.numpy())))
    queue.close()
    queue.join_thread()
    os._exit(0)
