"""Problems of the micro world (pipeline_lib/data/microworld): math, code, general, and their preference data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline_lib.data import microworld
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.params._base import StrictModel
from pipeline_lib.types import Problem, Split


class Options(StrictModel):
    """Options of the `microworld` source."""

    n: int = Field(ge=1, description="How many.")
    kind: Literal["math", "code", "general"] = Field(
        "math", description="Which part of the world; problems only."
    )
    split: Split = Field(
        Split.TRAIN, description="heldout draws from problems that no training set can hold."
    )
    steps: tuple[int, int] | None = Field(
        None, description="Least and most steps of a math or code problem; null: the hard ones."
    )


def problems(options: Options, seed: int) -> list[Problem]:
    """`n` problems of the kind, the same for the same seed."""
    return microworld.problems(options.kind, options.n, seed, options.split, options.steps)


def preferences(options: Options, seed: int) -> list[PreferencePair]:
    """`n` pairs of a better and a worse reply to a general prompt."""
    return microworld.preference_pairs(options.n, seed)


def safety(options: Options, seed: int) -> list[SafetyExample]:
    """`n` replies judged safe or unsafe."""
    return microworld.safety_examples(options.n, seed)
