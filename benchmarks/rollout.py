"""Tokens a second of every way to sample on this machine: which rollout engine should be the default?

`python -m benchmarks.rollout --model assets/micro/base --rows 256 --new-tokens 100 --repeats 5 --threads 2`

Alternates the samplers (A B C A B C …) on the same prompts, 16 samples a prompt, T = 1, and prints the median
with minimum and maximum, per wall second and per CPU second (the second is what remains comparable when other
work shares the cores). Every sampler must also return the log-probabilities of what it sampled, as training
needs them. Only sampled tokens up to and including the end of sequence are counted. `--samplers` picks among
torch, generate-dynamic, generate-static, continuous, vllm.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUP = 16
SAMPLERS = ("torch", "generate-dynamic", "generate-static", "continuous", "vllm")


@dataclass(frozen=True, slots=True)
class Workload:
    """What every sampler is asked for."""

    prompts: list[list[int]]
    new_tokens: int
    ends: tuple[int, ...]


def _workload(model: Any, tokenizer: Any, rows: int, new_tokens: int) -> Workload:
    import random

    from pipeline_lib.modeling import end_token_ids, render_prompt

    chance = random.Random(0)
    texts = [
        " ".join(f"{chance.randrange(2, 99)} {chance.choice('+-*')}" for _ in range(chance.randrange(3, 7)))
        + f" {chance.randrange(2, 99)} = ?"
        for _ in range(rows // GROUP)
    ]
    prompts = [render_prompt(tokenizer, text) for text in texts]
    return Workload(prompts, new_tokens, end_token_ids(model, tokenizer))


def _ours(generator: Any, load: Workload) -> Callable[[], int]:
    from pipeline_lib.types import SamplingParams

    sampling = SamplingParams(n=GROUP, max_new_tokens=load.new_tokens)
    ids = [str(index) for index in range(len(load.prompts))]

    def run() -> int:
        groups = generator.generate(load.prompts, ids, sampling, seed=1)
        return sum(len(completion.token_ids) for group in groups for completion in group)

    return run


def _generate(model: Any, load: Workload, cache: str) -> Callable[[], int]:
    import torch

    width = max(map(len, load.prompts))
    rows = [prompt for prompt in load.prompts for _ in range(GROUP)]
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
    rows = [prompt for prompt in load.prompts for _ in range(GROUP)]
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


def _build(
    name: str, args: argparse.Namespace, model: Any, tokenizer: Any, load: Workload
) -> Callable[[], int]:
    from pipeline_lib.modeling import load_model

    if name == "torch":
        from pipeline_lib.rollout.torch_generator import TorchGenerator

        return _ours(TorchGenerator(model, tokenizer), load)
    if name.startswith("generate-"):
        return _generate(model, load, name.removeprefix("generate-"))
    if name == "continuous":
        return _continuous(load_model(args.model), load)
    from pipeline_lib.params import EngineParams
    from pipeline_lib.rollout.vllm_generator import VllmGenerator

    engine = EngineParams.model_validate(
        {
            "rollout": "vllm",
            "world_size": 1,
            "zero_stage": 0,
            "dtype": "float32",
            "offload": "none",
            "threads": args.threads,
            "launcher": "local",
            "vllm": {
                "kv_cache_gib": 1.0,
                "gpu_memory_utilization": 0.4,
                "enforce_eager": True,
                "max_model_len": max(map(len, load.prompts)) + args.new_tokens,
            },
        }
    )
    return _ours(VllmGenerator(engine, Path(args.model), tokenizer), load)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="assets/micro/base")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    args = parser.parse_args()

    import torch

    from pipeline_lib.modeling import load_model, load_tokenizer

    torch.set_num_threads(args.threads)
    model, tokenizer = load_model(args.model), load_tokenizer(args.model)
    load = _workload(model, tokenizer, args.rows, args.new_tokens)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}; {args.model}: {parameters:,} parameters"
    )
    print(f"{args.rows} rows, at most {args.new_tokens} new tokens, {args.repeats} repeats\n")
    runs = {name: _build(name, args, model, tokenizer, load) for name in args.samplers}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):  # the first round warms up
        for name, run in runs.items():
            clock, process = time.perf_counter(), time.process_time()
            tokens = run()
            if repeat:
                wall[name].append(tokens / (time.perf_counter() - clock))
                cpu[name].append(tokens / (time.process_time() - process))
    print("| sampler | tokens/s: median (min-max) | tokens per CPU second |\n|---|---|---|")
    for name in runs:
        rates = wall[name]
        print(
            f"| {name} | {statistics.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | {statistics.median(cpu[name]):,.0f} |"
        )


if __name__ == "__main__":
    main()
