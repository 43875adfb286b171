"""Benchmark suites: one YAML file each in `suites/`. To add a suite, add a file.

A suite says where its questions come from (by name: a path, S3, a hub, or a procedure), how the paper samples
it (v2 D.1) and what was published for it. Its version goes into every report: change the questions or the way
they are judged, and raise it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline_lib.errors import ConfigError
from pipeline_lib.params._base import Fraction, Name, PositiveInt, StrictModel
from pipeline_lib.params.data import SourceSpec
from pipeline_lib.types import SamplingParams

FOLDER = Path(__file__).with_name("suites")


class SuiteSampling(StrictModel):
    """How a suite is sampled when params.yaml does not say otherwise (v2 D.1)."""

    samples: PositiveInt = Field(description="k: pass@1 is the mean over k samples of a problem.")
    temperature: float = Field(0.6, ge=0.0, description="v2 D.1: 0.6. 0 is greedy.")
    top_p: float = Field(0.95, gt=0.0, le=1.0, description="v2 D.1: 0.95.")
    max_new_tokens: PositiveInt = Field(32768, description="v2 D.1: 32,768.")


class Suite(StrictModel):
    """One benchmark."""

    name: Name
    version: PositiveInt
    title: str
    kind: Literal["reasoning", "general"] = Field(description="general suites make up the general score.")
    description: str
    sources: dict[str, SourceSpec] = Field(
        min_length=1, description="Name -> source; the first is the default."
    )
    sampling: SuiteSampling
    consensus: bool = Field(description="Report cons@k: a majority vote needs answers that can be compared.")
    answer_style: Literal["tag", "boxed", "hashes", "code_block"] = Field(
        "tag", description="Where the final answer stands (pipeline_lib.rewards.response.AnswerStyle)."
    )
    published: dict[str, Fraction] = Field(
        default_factory=dict, description="Model -> published score, for the report."
    )

    @model_validator(mode="after")
    def _held_out(self) -> Suite:
        if any(spec.limit is not None for spec in self.sources.values()):
            raise ValueError("a suite's questions are limited by evaluate.problems, not by its source")
        return self

    def source(self, choice: str | None = None) -> SourceSpec:
        """Where the questions come from: the source called `choice`, or the first.

        ConfigError when there is none of that name.
        """
        if choice is None or len(self.sources) == 1:
            return next(iter(self.sources.values()))
        if choice not in self.sources:
            raise ConfigError(
                f"suite {self.name}", choice, f"has no such source; it has {', '.join(self.sources)}"
            )
        return self.sources[choice]

    def resolve(
        self,
        *,
        samples: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
    ) -> SamplingParams:
        """How to sample: what params.yaml sets, and for the rest what the suite says."""
        own = self.sampling
        return SamplingParams(
            n=own.samples if samples is None else samples,
            max_new_tokens=own.max_new_tokens if max_new_tokens is None else max_new_tokens,
            temperature=own.temperature if temperature is None else temperature,
            top_p=own.top_p if top_p is None else top_p,
        )


def suite_names(folder: Path = FOLDER) -> list[str]:
    """Names of all suites."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


@cache
def load_suite(name: str, folder: Path = FOLDER) -> Suite:
    """Read `folder/<name>.yaml`. ConfigError for an unknown name or a bad file."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError("evaluate.suites", name, f"unknown suite; known: {', '.join(suite_names(folder))}")
    try:
        suite = Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path.name}: {field}", first.get("input"), first["msg"]) from error
    if suite.name != name:
        raise ConfigError(f"{path.name}: name", suite.name, f"must be the file's name, {name}")
    return suite


def suite_sources(names: Sequence[str], choice: str | None = None) -> Mapping[str, SourceSpec]:
    """Return suite -> where its questions come from, for `prepare_problems`."""
    return {name: load_suite(name).source(choice) for name in names}
