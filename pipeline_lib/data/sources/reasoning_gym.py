"""Procedural problems from PyPI `reasoning-gym`, by the name of the task, for example `chain_sum`.

Our verifiers compare with one ground truth, so only problems with exactly one right answer may pass: a task whose
scorer accepts several (countdown: any expression that reaches the target) is refused. Numbers become math problems;
other text becomes a general prompt. Each answer is checked against the task's own scorer.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from pydantic import Field

from pipeline_lib.data.identity import content_id
from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.params._base import StrictModel
from pipeline_lib.types import Domain, Problem


class Options(StrictModel):
    """Options of the `reasoning_gym` source."""

    task: str = Field(description="Name of a reasoning-gym task.")
    n: int = Field(ge=1, description="Problems to make.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="The task's own settings, for example num_terms."
    )


def problems(options: Options, seed: int) -> list[Problem]:
    """`n` problems of the task, the same for the same seed. Raises ConfigError for a task it cannot use."""
    dataset = _dataset(options, seed)
    found: list[Problem] = []
    for item in dataset:
        answer = str(item["answer"]).strip()
        numeric = _is_number(answer)
        if not numeric and not _scores_by_equality(dataset):
            raise ConfigError(
                "task",
                options.task,
                f"accepts more than one answer ({answer!r} is one), which no verifier here judges",
            )
        if dataset.score_answer(answer, item) != 1.0:
            raise DataError(
                f"reasoning_gym {options.task}: its own answer {answer!r} does not pass its own scorer."
            )
        found.append(
            Problem(
                id=content_id(options.task, item["question"]),
                domain=Domain.MATH if numeric else Domain.GENERAL,
                prompt=item["question"].strip(),
                answer=answer,
                category=options.task,
                source=f"reasoning_gym/{options.task}",
                licence="Apache-2.0",
            )
        )
    return found


def _dataset(options: Options, seed: int) -> Any:
    """The task's dataset. The import takes about ten seconds: it loads every task."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

    if options.task not in DATASETS:
        raise ConfigError(
            "task", options.task, f"reasoning-gym has no such task; it has {', '.join(sorted(DATASETS))}"
        )
    try:
        return reasoning_gym.create_dataset(options.task, size=options.n, seed=seed, **options.config)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError("config", options.config, f"{options.task} refuses it: {error}") from error


def _scores_by_equality(dataset: Any) -> bool:
    """True when the task keeps the library's default scorer, which compares with the one answer."""
    from reasoning_gym.dataset import ProceduralDataset

    return type(dataset).score_answer is ProceduralDataset.score_answer


def _is_number(text: str) -> bool:
    try:
        Fraction(text)
    except (ValueError, ZeroDivisionError):
        return False
    return True
