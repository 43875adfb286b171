"""Problems from a file on disk, in the layout its authors published."""

from __future__ import annotations

from pydantic import Field

from pipeline_lib.data.published import (
    PublishedOptions,
    read_published,
    read_published_preferences,
    read_published_safety,
)
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.data.tables import resolve_path
from pipeline_lib.types import Problem


class Options(PublishedOptions):
    """Options of the `files` source."""

    path: str = Field(
        description="JSONL, JSON, CSV (or .gz of them) or Parquet; ${..._DIR} variables are filled in."
    )


def problems(options: Options, seed: int) -> list[Problem]:
    """Every judgeable row of the file, in order."""
    return read_published(resolve_path(options.path), options)


def preferences(options: Options, seed: int) -> list[PreferencePair]:
    """Every preference pair of the file, in order."""
    return read_published_preferences(resolve_path(options.path), options)


def safety(options: Options, seed: int) -> list[SafetyExample]:
    """Every safety example of the file, in order."""
    return read_published_safety(resolve_path(options.path), options)
