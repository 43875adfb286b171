"""What a sampler promises, whichever engine is behind it. Imports no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from pipeline_lib.errors import DataError, WeightVersionMismatch
from pipeline_lib.types import Completion, SamplingParams

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ProgressCallback = Callable[[int, int], None]
"""(finished samples, all samples), called while sampling."""
GroupCallback = Callable[[int, list[Completion]], None]
"""(index of the prompt, its n completions), called as soon as the last of them is finished, in the sampling
thread: hand the group to a verifier there and it is scored while other prompts still sample (design §7)."""


class Generator(Protocol):
    """Samples completions and says which weights drew them."""

    weight_version: int

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
        """`sampling.n` completions of every prompt (outer list: prompts, inner: samples).

        `prompts` are token ids; `seed` alone decides the random choices of this call. Raises ConfigError
        when prompt and response do not fit the model, DataError for an empty prompt, NonFiniteError naming
        problem and sample when the model produced NaN or infinity.
        """
        ...

    def update_weights(self, model: PreTrainedModel, version: int) -> None:
        """Sample from the weights of `model` from now on and stamp `version` on every completion.

        Raises WeightVersionMismatch unless `version` is newer than the current one.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """Numbers about the sampling since the last call, for MLflow alone: they may differ from run to run."""
        ...

    def sleep(self) -> None:
        """Give memory back while the trainer needs it."""
        ...

    def wake(self) -> None:
        """Take the memory again; call it before `generate` after a `sleep`."""
        ...

    def close(self) -> None:
        """Stop the engine and free what it holds."""
        ...


def next_version(current: int, version: int) -> int:
    """`version`, if it is newer than `current`; WeightVersionMismatch otherwise."""
    if version <= current:
        raise WeightVersionMismatch(
            f"the sampler holds weights of version {current}; an update to version {version} does not move it on"
        )
    return version


def require_version(completions: Iterable[Completion], version: int) -> None:
    """Raise WeightVersionMismatch unless every completion was drawn from weights of `version`."""
    for completion in completions:
        if completion.weight_version != version:
            raise WeightVersionMismatch(
                f"problem {completion.problem_id}: sampled from weights of version {completion.weight_version}, "
                f"the trainer is at {version}"
            )


def require_prompts(prompts: Sequence[Sequence[int]], problem_ids: Sequence[str]) -> None:
    """Raise DataError for an empty prompt, ValueError when ids and prompts do not pair up."""
    if len(prompts) != len(problem_ids):
        raise ValueError(f"{len(prompts)} prompts but {len(problem_ids)} problem ids")
    for prompt, problem_id in zip(prompts, problem_ids, strict=True):
        if not len(prompt):
            raise DataError(f"problem {problem_id}: its prompt has no tokens")
