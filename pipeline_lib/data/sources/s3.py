"""Problems from one S3 object, in the layout its authors published."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import Field

from pipeline_lib.data.published import (
    PublishedOptions,
    read_published,
    read_published_preferences,
    read_published_safety,
)
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.storage import s3
from pipeline_lib.types import Problem


class Options(PublishedOptions):
    """Options of the `s3` source."""

    uri: str = Field(description="s3://bucket/key of a JSONL, JSON, CSV (or .gz of them) or Parquet object.")


@contextlib.contextmanager
def _fetched(options: Options) -> Iterator[Path]:
    """A temporary copy of the object under its own file name."""
    with tempfile.TemporaryDirectory(prefix="r1-s3-") as folder:
        path = Path(folder) / PurePosixPath(s3.S3Uri.parse(options.uri).key).name
        s3.download(options.uri, path)
        yield path


def problems(options: Options, seed: int) -> list[Problem]:
    """Every judgeable row of the object, in order."""
    with _fetched(options) as path:
        return read_published(path, options)


def preferences(options: Options, seed: int) -> list[PreferencePair]:
    """Every preference pair of the object, in order."""
    with _fetched(options) as path:
        return read_published_preferences(path, options)


def safety(options: Options, seed: int) -> list[SafetyExample]:
    """Every safety example of the object, in order."""
    with _fetched(options) as path:
        return read_published_safety(path, options)
