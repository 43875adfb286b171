"""Every way to sample on this machine's processor: which rollout engine should be the default there?

Each sampler lives in a process of its own, for vLLM changes the threads and the allocator of its process, and they take turns on
the same prompts. Every sampler also returns the log-probabilities of what it sampled, as training needs them. Only sampled
tokens up to and including the end of sequence are counted.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import ratio_of_pairs, spread, table

THREADS = 2
SAMPLERS = {
    "torch": "`torch`: this project's loop",
    "generate-dynamic": "transformers `generate`, dynamic cache",
    "generate-static": "transformers `generate`, static cache",
    "continuous": "transformers continuous batching",
    "vllm-nobind": "vLLM, threads where the kernel puts them",
    "vllm-bound": "vLLM, threads bound to all cores",
}
START_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Case:
    """What every sampler is asked for."""

    title: str
    model: str
    prompts: int
    group: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """The same with token ids."""

    prompts: list[list[int]]
    group: int
    new_tokens: int
    ends: tuple[int, ...]

    @property
    def rows(self) -> list[list[int]]:
        """Every prompt once a sample."""
        return [prompt for prompt in self.prompts for _ in range(self.group)]


def _workload(model: Any, tokenizer: Any, case: Case) -> Workload:
    import random

    from pipeline_lib.modeling import end_token_ids, render_prompt

    chance = random.Random(0)
    texts = [
        " ".join(f"{chance.randrange(2, 99)} {chance.choice('+-*')}" for _ in range(chance.randrange(3, 7)))
        + f" {chance.randrange(2, 99)} = ?"
        for _ in range(case.prompts)
    ]
    prompts = [render_prompt(tokenizer, text) for text in texts]
    return Workload(prompts, case.group, case.new_tokens, end_token_ids(model, tokenizer))


def _ours(generator: Any, load: Workload) -> Callable[[], int]:
    from pipeline_lib.types import SamplingParams

    sampling = SamplingParams(n=load.group, max_new_tokens=load.new_tokens)
    ids = [str(index) for index in range(len(load.prompts))]

    def run() -> int:
        groups = generator.generate(load.prompts, ids, sampling, seed=1)
        return sum(len(completion.token_ids) for group in groups for completion in group)

    return run


def _generate(model: Any, load: Workload, cache: str) -> Callable[[], int]:
    import torch

    width = max(map(len, load.prompts))
    rows = load.rows
    pad = load.ends[0]
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in rows])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in rows])

    def run() -> int:
        torch.manual_seed(1)
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=load.new_tokens,
            eos_token_id=list(load.ends),
            pad_token_id=pad,
            cache_implementation=cache,
            disable_compile=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        responses = output.sequences[:, width:]
        for step, logits in enumerate(output.logits):
            torch.log_softmax(logits.float(), -1).gather(-1, responses[:, step, None])
        ended = torch.isin(responses, torch.tensor(load.ends)).cumsum(-1)
        return int((ended - torch.isin(responses, torch.tensor(load.ends)).long() == 0).sum())

    return run


def _continuous(model: Any, load: Workload) -> Callable[[], int]:
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=load.new_tokens,
        do_sample=True,
        top_k=0,
        eos_token_id=list(load.ends),
        pad_token_id=load.ends[0],
    )
    rows = load.rows
    block = 32
    blocks = len(rows) * -(-(max(map(len, rows)) + load.new_tokens) // block)
    batching = ContinuousBatchingConfig(  # left alone, it takes most of the machine's memory for its cache
        return_logprobs=True, block_size=block, num_blocks=blocks, max_batch_tokens=1024
    )

    def run() -> int:
        torch.manual_seed(1)
        outputs = model.generate_batch(rows, generation_config=settings, continuous_batching_config=batching)
        return sum(len(output.generated_tokens) for output in outputs.values())

    return run


def _build(name: str, path: str, model: Any, tokenizer: Any, load: Workload) -> Callable[[], int]:
    if name == "torch":
        from pipeline_lib.rollout.torch_generator import TorchGenerator

        return _ours(TorchGenerator(model, tokenizer), load)
    if name.startswith("generate-"):
        return _generate(model, load, name.removeprefix("generate-"))
    if name == "continuous":
        return _continuous(model, load)
    from pipeline_lib.params import EngineParams
    from pipeline_lib.rollout.vllm_generator import VllmGenerator

    engine = EngineParams.model_validate(
        {
            "rollout": "vllm",
            "world_size": 1,
            "zero_stage": 0,
            "dtype": "float32",
            "offload": "none",
            "threads": THREADS,
            "launcher": "local",
            "vllm": {
                "kv_cache_gib": 1.0,
                "gpu_memory_utilization": 0.4,
                "enforce_eager": True,
                "max_model_len": max(map(len, load.prompts)) + load.new_tokens,
            },
        }
    )
    return _ours(VllmGenerator(engine, Path(path), tokenizer), load)


def _serve(turns: Connection, name: str, case: Case) -> None:
    """A sampler's process: sample once a turn; tell tokens and seconds."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    if name == "vllm-bound":
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{(os.cpu_count() or 1) - 1}"
    import torch

    from pipeline_lib.modeling import load_model, load_tokenizer

    torch.set_num_threads(THREADS)
    model, tokenizer = load_model(case.model), load_tokenizer(case.model)
    run = _build(name, case.model, model, tokenizer, _workload(model, tokenizer, case))
    run()  # the first one warms up
    turns.send(None)
    while turns.recv():
        began = time.perf_counter()
        tokens = run()
        seconds = time.perf_counter() - began
        turns.send((tokens, seconds))


def _measure(case: Case, rounds: int) -> str:
    context = multiprocessing.get_context("spawn")
    turns: dict[str, Connection] = {}
    processes = []
    try:
        for name in SAMPLERS:  # one starts after the other has warmed up
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, name, case), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            if not ours.poll(START_SECONDS):
                raise RuntimeError(f"rollout: {name} did not start within {START_SECONDS:.0f} s")
            ours.recv()
            turns[name] = ours
        rates: dict[str, list[float]] = {name: [] for name in SAMPLERS}
        for _ in range(rounds):
            for name, turn in turns.items():
                turn.send(True)
                tokens, seconds = turn.recv()
                rates[name].append(tokens / seconds)
        for turn in turns.values():
            turn.send(False)
    except EOFError:
        raise RuntimeError("rollout: a sampler's process ended; its last words are above") from None
    finally:
        for process in processes:
            process.terminate() if process.exitcode is None else None
            process.join()
    rows = [
        [
            label,
            spread(rates[name]).show(0),
            "" if name == "torch" else ratio_of_pairs(rates["torch"], rates[name]).show(1) + "×",
        ]
        for name, label in SAMPLERS.items()
    ]
    text = table(["sampler", "tokens/s", "`torch` is faster by"], rows)
    return (
        f"**{case.title}**, {case.prompts} prompts × G {case.group}, at most {case.new_tokens} new tokens, T 1, "
        f"{THREADS} threads, float32.\n\n{text}"
    )


def _run(bench: Bench) -> str:
    micro = Case("Micro base (0.68M parameters)", "assets/micro/base", 16, 16, 100)
    if bench.quick:
        return _measure(Case(micro.title, micro.model, 2, 4, 8), 1)
    smollm2 = Case("SmolLM2-135M", bench.smollm2().model, 4, 8, 32)
    return "\n\n".join(_measure(case, bench.rounds) for case in (micro, smollm2))


BENCHMARK = Benchmark("rollout", "Ways to sample on a CPU", _run)
