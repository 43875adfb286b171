"""A published file (from a disk, S3 or a hub) as problems, preference pairs or safety examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from pipeline_lib.data.identity import content_id
from pipeline_lib.data.layouts import layouts
from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.data.tables import check_sha256, read_rows
from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.params._base import StrictModel
from pipeline_lib.types import Problem

Record = TypeVar("Record")


class PublishedOptions(StrictModel):
    """What every source of a published file may be told about it."""

    layout: str = Field("problems", description="How a row is read: a name of pipeline_lib/data/layouts.py.")
    source: str | None = Field(
        None, description="Name of the data set, where the layout's own does not say enough."
    )
    licence: str | None = Field(None, description="SPDX name, where the layout's own is wrong for this file.")
    rows: tuple[int, int] | None = Field(
        None,
        description="First row and the one after the last; for one file that holds a train and a test part.",
    )
    sha256: str | None = Field(None, description="Refuse the file unless its content has this hash.")


def read_published(path: Path, options: PublishedOptions) -> list[Problem]:
    """Every row a verifier can judge. Raises ConfigError for an unknown layout, DataError for a bad row or hash."""
    known = layouts()
    if options.layout not in known:
        raise ConfigError("layout", options.layout, f"unknown layout; known: {', '.join(sorted(known))}")
    check_sha256(path, options.sha256)
    found = [problem for problem in _rows(path, known[options.layout], options) if problem is not None]
    if not found:
        raise DataError(f"{path}: none of its rows can be judged by a verifier here. Choose another file.")
    changes = {key: value for key in ("source", "licence") if (value := getattr(options, key)) is not None}
    return [replace(problem, **changes) for problem in found]


def read_published_preferences(path: Path, options: PublishedOptions) -> list[PreferencePair]:
    """Rows with `prompt`, `chosen`, `rejected` and perhaps `id` and `category`. Raises DataError."""
    check_sha256(path, options.sha256)
    return list(_rows(path, _preference, options))


def read_published_safety(path: Path, options: PublishedOptions) -> list[SafetyExample]:
    """Rows with `prompt`, `response`, `safe` (or `is_safe`) and perhaps `id`. Raises DataError."""
    check_sha256(path, options.sha256)
    return list(_rows(path, _safety, options))


def _rows(
    path: Path, parse: Callable[[Mapping[str, Any]], Record], options: PublishedOptions
) -> Iterator[Record]:
    """Each row asked for, parsed; a row's error gets the file and the row's number in front."""
    first, stop = options.rows or (0, None)
    for number, row in read_rows(path):
        if number < first or (stop is not None and number >= stop):
            continue
        try:
            yield parse(row)
        except (DataError, KeyError, ValueError, TypeError, SyntaxError) as error:
            reason = error if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            raise DataError(
                f"{path}: row {number}: {reason}. Correct the row or choose another layout."
            ) from error


def _preference(row: Mapping[str, Any]) -> PreferencePair:
    prompt, chosen, rejected = (_string(row, name) for name in ("prompt", "chosen", "rejected"))
    identity = str(row.get("id") or content_id("preference", f"{prompt}\0{chosen}\0{rejected}"))
    return PreferencePair(identity, prompt, chosen, rejected, str(row.get("category") or "general"))


def _safety(row: Mapping[str, Any]) -> SafetyExample:
    prompt, response = _string(row, "prompt"), _string(row, "response")
    safe = row.get("safe", row.get("is_safe"))
    if not isinstance(safe, bool):
        raise DataError(f"column 'safe' = {safe!r} is not true or false")
    identity = str(row.get("id") or content_id("safety", f"{prompt}\0{response}"))
    return SafetyExample(identity, prompt, response, safe)


def _string(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise DataError(f"column {name!r} = {value!r} is not a text")
    return value
