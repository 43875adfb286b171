"""vLLM in this process: the sampler for GPUs, and for models that are too large for the lean CPU loop.

One engine lives as long as the generator. n samples of a prompt are one request (the prompt is prefilled
once; prefix caching shares its blocks), log-probabilities of the sampled tokens come from vLLM's sampler
after temperature, and new weights go in through vLLM's weight-transfer API with a version that vLLM keeps
(`vllm_weights`). The version vLLM reports is compared with ours before every call.

Determinism: a per-request seed is not used (on the CPU backend it fails, on GPUs it samples row by row).
The engine draws from torch's default generator in this process, so that generator is seeded for the call
and put back afterwards. On a CPU with the same threads, the same weights, prompts, sampling and seed give
the same text and log-probabilities, in the same process or another. On a GPU kernels may add in another
order when the batch is composed otherwise; the draws are the same, the logits equal only to rounding.

With top_p < 1 vLLM's log-probabilities are those of the nucleus; the torch sampler's are always those of
the whole vocabulary. Training samples with top_p = 1, where both agree.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline_lib.errors import ConfigError, NonFiniteError, WeightVersionMismatch
from pipeline_lib.modeling import decode
from pipeline_lib.rollout.protocol import GroupCallback, ProgressCallback, next_version, require_prompts
from pipeline_lib.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from vllm import LLM, RequestOutput

    from pipeline_lib.params import EngineParams


class VllmGenerator:
    """Generator over an in-process vLLM engine. See `protocol.Generator`."""

    def __init__(
        self,
        engine: EngineParams,
        model_dir: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weight_version: int = 0,
        load_format: str = "auto",
    ) -> None:
        from transformers import AutoConfig, GenerationConfig

        self.weight_version = weight_version
        self._tokenizer = tokenizer
        self._max_model_len = engine.vllm.max_model_len
        self._calls = 0
        config = AutoConfig.from_pretrained(str(model_dir))
        require_positions(config.max_position_embeddings, self._max_model_len)
        self._ends = end_ids(tokenizer, GenerationConfig.from_pretrained(str(model_dir)))
        self._llm = _start(engine, model_dir, load_format)
        self._llm.update_weight_version(str(weight_version))

    @classmethod
    def from_model(
        cls,
        engine: EngineParams,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weight_version: int = 0,
    ) -> VllmGenerator:
        """An engine holding a copy of `model`'s present weights.

        vLLM starts from a directory; this one has no weights, which go in as every update's do. Nothing large is
        written, and every rank may start its own (transformers saves a model on the first rank alone).
        """
        with tempfile.TemporaryDirectory(prefix="vllm-start-") as folder:
            model.config.architectures = [type(model).__name__]
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
            generator = cls(
                engine, Path(folder), tokenizer, weight_version=weight_version, load_format="dummy"
            )
        generator._load(model, weight_version)
        return generator

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        problem_ids: Sequence[str],
        sampling: SamplingParams,
        *,
        seed: int,
        on_progress: ProgressCallback | None = None,
        on_group: GroupCallback | None = None,
    ) -> list[list[Completion]]:
        """n completions for every prompt; see `protocol.Generator.generate`."""
        require_prompts(prompts, problem_ids)
        if not prompts:
            return []
        require_room(prompts, sampling, self._max_model_len)
        self._require_engine_version()
        groups: list[list[Completion]] = [[] for _ in prompts]
        done = 0
        with _seeded(seed):
            for index, output in self._finished(prompts, sampling):
                groups[index] = self._completions(output, prompts[index], problem_ids[index])
                done += sampling.n
                if on_group:
                    on_group(index, groups[index])
                if on_progress:
                    on_progress(done, len(prompts) * sampling.n)
        return groups

    def update_weights(self, model: PreTrainedModel, version: int) -> None:
        """Copy `model`'s weights into the engine through vLLM's weight-transfer API."""
        self._load(model, next_version(self.weight_version, version))

    def _load(self, model: PreTrainedModel, version: int) -> None:
        tied = bool(model.config.tie_word_embeddings)
        weights = [
            (name, parameter.detach())
            for name, parameter in model.named_parameters()
            if not (tied and name == "lm_head.weight")
        ]
        self._llm.start_weight_update()
        self._llm.update_weights({"update_info": {"weights": weights}})
        self._llm.finish_weight_update(weight_version=str(version))
        self._llm.reset_prefix_cache()  # blocks of the old weights' keys and values
        self.weight_version = version

    def metrics(self) -> Mapping[str, float]:
        """Nothing to report."""
        return {}

    def sleep(self) -> None:
        """Free the GPU memory of cache and weights while the trainer needs it; on a CPU there is none to free."""
        if torch.cuda.is_available():
            self._llm.sleep(level=1)

    def wake(self) -> None:
        """Take the memory back. Weights are as before `sleep`: update them afterwards."""
        if torch.cuda.is_available():
            self._llm.wake_up()

    def close(self) -> None:
        """Stop the engine and free its cache."""
        self._llm.llm_engine.engine_core.shutdown()

    def _require_engine_version(self) -> None:
        held = self._llm.get_weight_version()
        if held != str(self.weight_version):
            raise WeightVersionMismatch(
                f"vLLM holds weights of version {held}, expected {self.weight_version}"
            )

    def _finished(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams
    ) -> Iterator[tuple[int, RequestOutput]]:
        """Run the engine step by step; yield (prompt index, output) as each prompt's last sample ends."""
        from vllm import SamplingParams as VllmSampling
        from vllm.sampling_params import RequestOutputKind

        settings = VllmSampling(
            n=sampling.n,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            logprobs=0,
            stop_token_ids=sorted({*self._ends, *sampling.stop_token_ids}),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine = self._llm.llm_engine
        self._calls += 1
        index_of: dict[str, int] = {}
        for index, prompt in enumerate(prompts):
            request = f"{self._calls}-{index}"
            index_of[request] = index
            engine.add_request(request, {"prompt_token_ids": list(prompt)}, settings)
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    if output.finished:
                        yield index_of[output.request_id], output
        finally:
            if engine.has_unfinished_requests():  # the caller failed: leave no request for the next call
                engine.abort_request(list(index_of))

    def _completions(self, output: RequestOutput, prompt: Sequence[int], problem_id: str) -> list[Completion]:
        completions = []
        for sample in sorted(output.outputs, key=lambda sample: sample.index):
            token_ids = tuple(sample.token_ids)
            logprobs = tuple(
                float(at_step[token].logprob)
                for token, at_step in zip(token_ids, sample.logprobs, strict=True)
            )
            if not all(map(math.isfinite, logprobs)):
                raise NonFiniteError(
                    f"problem {problem_id}, sample {sample.index}: vLLM's log-probabilities are not finite"
                )
            completions.append(
                Completion(
                    problem_id=problem_id,
                    prompt_ids=tuple(prompt),
                    token_ids=token_ids,
                    logprobs=logprobs,
                    text=decode(self._tokenizer, token_ids),
                    finished=sample.finish_reason == "stop",
                    weight_version=self.weight_version,
                )
            )
        return completions


def require_room(prompts: Sequence[Sequence[int]], sampling: SamplingParams, max_model_len: int) -> None:
    """ConfigError when the longest prompt and a whole response do not fit the engine."""
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    if longest > max_model_len:
        remedy = f"prompt and response reach {longest} tokens; raise engine.vllm.max_model_len to that"
        raise ConfigError("max_new_tokens", sampling.max_new_tokens, remedy)


def require_positions(positions: int, max_model_len: int) -> None:
    """ConfigError when the engine is asked for more positions than the model has."""
    if positions < max_model_len:
        remedy = f"the model has {positions} positions; ask for at most that many"
        raise ConfigError("engine.vllm.max_model_len", max_model_len, remedy)


def _start(engine: EngineParams, model_dir: Path, load_format: str) -> LLM:
    """Start vLLM in this process. Its environment is read at import, so it is set first."""
    on_gpu = torch.cuda.is_available()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    with _kept_random_state(), _kept_process_settings():
        from vllm import LLM

        from pipeline_lib.rollout.vllm_device import OwnDeviceExecutor
        from pipeline_lib.rollout.vllm_weights import register

        options: dict[str, Any] = {}
        if on_gpu:
            options["gpu_memory_utilization"] = engine.vllm.gpu_memory_utilization
            options["enable_sleep_mode"] = True
        else:
            options["kv_cache_memory_bytes"] = int(engine.vllm.kv_cache_gib * 2**30)
        llm = LLM(
            model=str(model_dir),
            load_format=load_format,
            distributed_executor_backend=OwnDeviceExecutor,
            skip_tokenizer_init=True,
            dtype=engine.dtype,
            max_model_len=engine.vllm.max_model_len,
            max_num_seqs=256,
            enforce_eager=engine.vllm.enforce_eager,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            disable_log_stats=True,
            weight_transfer_config={"backend": register()},
            **options,
        )
        llm.init_weight_transfer_engine({"init_info": {}})
    return llm


@contextmanager
def _kept_process_settings() -> Iterator[None]:
    """Undo what vLLM's CPU backend changes for the whole process while starting.

    It preloads its allocator into every later child (LD_PRELOAD), claims launcher variables
    (LOCAL_WORLD_SIZE) and replaces `torch.set_num_threads`; the trainer and the sandbox want theirs.
    """
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        for name in [name for name in os.environ if not name.startswith("VLLM_")]:
            if name not in environment:
                del os.environ[name]
        os.environ.update(
            {name: value for name, value in environment.items() if not name.startswith("VLLM_")}
        )


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Put torch's default generators back: a trainer's exact resume must not depend on the sampler."""
    with torch.random.fork_rng():
        yield


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with _kept_random_state():
        torch.manual_seed(seed)
        yield


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: Any) -> list[int]:
    """Every token that ends a response: the tokenizer's and the generation config's."""
    ids = generation.eos_token_id
    return sorted({tokenizer.eos_token_id, *([ids] if isinstance(ids, int) else ids or [])} - {None})
