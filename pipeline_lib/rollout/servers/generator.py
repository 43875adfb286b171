"""Samples on vLLM servers: the Generator protocol over a pool of them.

A call deals its prompts to the servers that are ready, longest first, and each server gets its share as one request and
answers group by group. A server that is lost under way takes its unfinished prompts with it; they are dealt again, to
whoever is ready when the others are done, until every group is there.

Determinism: equal seeds, weights and prompts on equally many servers, none of them lost, give the same text and (on a
CPU) the same log-probabilities: the deal is a function of the prompts, and a server's draws are one of its share. When
a server is lost the prompts it still owed are sampled with other draws: valid samples of the same policy, but not the
ones an undisturbed run has. Then, and only then, two runs of a seed differ.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline_lib.errors import NonFiniteError, WeightVersionMismatch
from pipeline_lib.modeling import decode, require_model_dir
from pipeline_lib.rollout.protocol import GroupCallback, ProgressCallback, next_version, require_prompts
from pipeline_lib.rollout.servers.client import Sample, ServerFailed
from pipeline_lib.rollout.servers.local import LocalServer
from pipeline_lib.rollout.servers.placement import deal, servers_of_rank
from pipeline_lib.rollout.servers.pool import Place, ServerPool
from pipeline_lib.rollout.servers.weights import DirectoryFiles, MemoryFiles, WeightFiles
from pipeline_lib.rollout.vllm_generator import end_ids, require_positions, require_room
from pipeline_lib.storage.allowed import require_allowed_servers, require_weights_dir
from pipeline_lib.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline_lib.params import EngineParams

Event = tuple[Place, int | None, list[Sample] | BaseException | None]
"""A group of a share (its index there), or the end of a share: with None, or with what ended it."""


class ServersGenerator:
    """Generator over vLLM servers. See `protocol.Generator`."""

    def __init__(
        self,
        engine: EngineParams,
        tokenizer: PreTrainedTokenizerBase,
        *,
        config: Mapping[str, object],
        ends: Sequence[int],
        weight_version: int,
    ) -> None:
        """Start (or find) the servers; they hold no weights yet. `config` is the model's config.json."""
        require_positions(int(str(config["max_position_embeddings"])), engine.vllm.max_model_len)
        rank, ranks = _world()
        numbers = servers_of_rank(engine.servers.total, rank, ranks)
        self.weight_version = weight_version
        self._tokenizer, self._ends = tokenizer, list(ends)
        self._max_model_len, self._silence = engine.vllm.max_model_len, engine.servers.silence_seconds
        require_allowed_servers(engine.servers.addresses)
        self._files: WeightFiles = (
            DirectoryFiles(require_weights_dir(engine.servers.weights_dir, Path.cwd()), rank)
            if engine.servers.addresses
            else MemoryFiles()
        )
        files = {"config.json": json.dumps(config)}
        self._resampled, self._lost = 0, 0
        self.pool = ServerPool(
            engine.servers, numbers, lambda number: LocalServer(engine, number, files, ranks)
        )

    @classmethod
    def from_model(
        cls,
        engine: EngineParams,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        weight_version: int = 0,
    ) -> ServersGenerator:
        """Servers that hold a copy of `model`'s present weights."""
        config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
        ends = end_ids(tokenizer, model.generation_config)
        made = cls(engine, tokenizer, config=config, ends=ends, weight_version=weight_version)
        made._send(made._files.publish(model, weight_version))
        return made

    @classmethod
    def from_directory(
        cls, engine: EngineParams, model_dir: Path, tokenizer: PreTrainedTokenizerBase
    ) -> ServersGenerator:
        """Servers that read the directory's own weights (other hosts must see it at the same path); version 0."""
        from transformers import GenerationConfig

        folder = require_model_dir(model_dir).resolve()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ends = end_ids(tokenizer, GenerationConfig.from_pretrained(str(folder)))
        made = cls(engine, tokenizer, config=config, ends=ends, weight_version=0)
        made._send([str(path) for path in sorted(folder.glob("*.safetensors"))])
        return made

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
        """n completions for every prompt; see `protocol.Generator.generate`. NoServersLeft when all servers are lost."""
        require_prompts(prompts, problem_ids)
        if not prompts:
            return []
        require_room(prompts, sampling, self._max_model_len)
        groups: dict[int, list[Completion]] = {}
        attempt = 0
        while missing := [index for index in range(len(prompts)) if index not in groups]:
            self._resampled += len(missing) if attempt else 0
            with closing(self._round(missing, prompts, sampling, f"{seed}/{attempt}")) as finished:
                for index, samples in finished:
                    groups[index] = self._completions(samples, prompts[index], problem_ids[index])
                    if on_group:
                        on_group(index, groups[index])
                    if on_progress:
                        on_progress(len(groups) * sampling.n, len(prompts) * sampling.n)
            attempt += 1
        return [groups[index] for index in range(len(prompts))]

    def update_weights(self, model: PreTrainedModel, version: int) -> None:
        """Send `model`'s weights to every server at once; each confirms the version before it samples again."""
        self.weight_version = next_version(self.weight_version, version)
        self._send(self._files.publish(model, version))

    def metrics(self) -> Mapping[str, float]:
        """Servers that serve, and since the last call: servers lost, prompts sampled again because of it."""
        counted = {
            "servers_ready": float(sum(place.state == "ready" for place in self.pool.places)),
            "servers_lost": float(self.pool.lost - self._lost),
            "resampled_prompts": float(self._resampled),
        }
        self._lost, self._resampled = self.pool.lost, 0
        return counted

    def sleep(self) -> None:
        """Nothing to give back: servers have processors of their own."""

    def wake(self) -> None:
        """Nothing to take."""

    def close(self) -> None:
        """Stop the servers that this job started, and remove what it published."""
        self.pool.close()
        self._files.close()

    def _send(self, paths: list[str]) -> None:
        """The first weights decide whether there is a generator at all: none must be left running without one."""
        try:
            self.pool.load_weights(paths, self.weight_version)
        except BaseException:
            self.close()
            raise

    def _round(
        self, indices: Sequence[int], prompts: Sequence[Sequence[int]], sampling: SamplingParams, seed: str
    ) -> Generator[tuple[int, list[Sample]], None, None]:
        """Deal the prompts of `indices` to the servers that are ready; yield each group that comes back.

        Returns when every server has answered or is lost. Closing it early hangs up on all of them.
        """
        places = self.pool.ready()
        shares = deal([len(prompts[index]) for index in indices], len(places))
        events: queue.Queue[Event] = queue.Queue()
        stopped = threading.Event()

        def ask(place: Place, share: list[int]) -> None:
            ended: BaseException | None = None
            try:
                answer = place.client.generate(
                    [prompts[index] for index in share],
                    sampling,
                    stop_token_ids=sorted({*self._ends, *sampling.stop_token_ids}),
                    seed=_share_seed(seed, place.number),
                    version=self.weight_version,
                    silence_seconds=self._silence,
                )
                for position, samples in answer:
                    if stopped.is_set():
                        break
                    events.put((place, share[position], samples))
            except BaseException as error:
                ended = error
            events.put((place, None, ended))

        dealt = [
            (place, [indices[at] for at in share])
            for place, share in zip(places, shares, strict=True)
            if share
        ]
        with ThreadPoolExecutor(len(dealt), thread_name_prefix="rollout") as threads:
            for place, share in dealt:
                threads.submit(ask, place, share)
            try:
                yield from self._until_ended(events, len(dealt))
            finally:
                stopped.set()
                for place, _ in dealt:
                    place.client.hang_up()

    def _until_ended(self, events: queue.Queue[Event], running: int) -> Iterator[tuple[int, list[Sample]]]:
        while running:
            place, index, found = events.get()
            if index is not None:
                yield index, cast("list[Sample]", found)
                continue
            running -= 1
            if isinstance(found, ServerFailed):
                self.pool.lose(place, str(found))
            elif isinstance(found, BaseException):
                raise found

    def _completions(self, samples: list[Sample], prompt: Sequence[int], problem_id: str) -> list[Completion]:
        """A group's completions, each checked: drawn from the present weights alone, with finite log-probabilities."""
        completions = []
        for index, sample in enumerate(samples):
            if sample.versions != (str(self.weight_version),):
                raise WeightVersionMismatch(
                    f"problem {problem_id}: sampled from weights of version {', '.join(sample.versions) or 'unknown'}, "
                    f"the trainer is at {self.weight_version}"
                )
            logprobs = tuple(value for value in sample.logprobs if value is not None)
            if len(logprobs) != len(sample.token_ids):
                raise NonFiniteError(
                    f"problem {problem_id}, sample {index}: vLLM's log-probabilities are not finite"
                )
            completions.append(
                Completion(
                    problem_id=problem_id,
                    prompt_ids=tuple(prompt),
                    token_ids=sample.token_ids,
                    logprobs=logprobs,
                    text=decode(self._tokenizer, sample.token_ids),
                    finished=sample.finish_reason == "stop",
                    weight_version=self.weight_version,
                )
            )
        return completions


def _share_seed(seed: str, server: int) -> int:
    """What seeds one server's sampler for one round: servers must not draw alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{server}".encode()).digest()[:7])


def _world() -> tuple[int, int]:
    """(rank, ranks) of this process in the training job; one rank outside of one."""
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
