"""The values that travel between the parts: problems, verdicts, samples, rewards.

Small, frozen, typed. No dict travels further than the function that parsed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Domain(StrEnum):
    """What a prompt asks for, and so who can judge the response."""

    MATH = "math"
    CODE = "code"
    GENERAL = "general"


class Split(StrEnum):
    """Where a problem may be used. Held-out problems are never trained on."""

    TRAIN = "train"
    HELDOUT = "heldout"


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of a problem set (the Parquet schema is `pipeline_lib.data.schema`).

    `answer` is the ground truth of a math or general prompt; `tests` are assert statements that call
    `entry_point`, for code. `reference` is a solution that must pass its own tests.
    """

    id: str
    domain: Domain
    prompt: str
    answer: str | None = None
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    reference: str | None = None
    category: str = ""
    """A finer kind within the domain, for example `qa`, `instruction`, `harmful`, `chain`."""
    source: str = ""
    licence: str = ""
    difficulty: float | None = None
    """The base model's own pass rate in [0, 1]; None until it was measured. Lower is harder."""
    split: Split = Split.TRAIN


class Outcome(StrEnum):
    """What a verifier can say. Only CORRECT and WRONG are learning signal (design §6)."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"
    VERIFIER_ERROR = "verifier_error"

    @property
    def is_signal(self) -> bool:
        """True where the sample may be learned from; otherwise it is masked and counted."""
        return self in (Outcome.CORRECT, Outcome.WRONG)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's outcome with its evidence. Never a bare float."""

    outcome: Outcome
    extracted: str | None = None
    """The answer that was found in the response, or None."""
    failed_test: str | None = None
    detail: str = ""
    seconds: float = 0.0
    """Wall time of the verification. Goes to MLflow only: never into a file that DVC hashes."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A scored response: the sum the advantage is computed from, and what it was made of."""

    total: float
    parts: Mapping[str, float]
    """Name of the reward -> its weighted share of `total`."""
    verdict: Verdict
    masked: bool = False
    """True: not learning signal; excluded from the group's statistics and from the loss."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled response."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Completion tokens, end-of-sequence included when it was sampled."""
    logprobs: tuple[float, ...]
    """Log-probability of each token under the sampler, after temperature; same length as token_ids."""
    text: str
    """Decoded with special tags kept (<think>, <answer>), end-of-sequence and padding removed."""
    finished: bool
    """False when the length limit cut it."""
    weight_version: int = 0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. T=1, top_p=1 in training; T=0.6, top_p=0.95 in evaluation (v2 D.1)."""

    n: int
    """Samples per prompt (G in training, k in evaluation)."""
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model directory (config, safetensors, tokenizer) with the hash that names its content."""

    name: str
    path: str
    content_hash: str
