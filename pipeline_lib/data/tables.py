"""Rows out of a file as it was published: JSONL, JSON, CSV (each also gzipped) or Parquet.

A path may hold environment variables that name directories (`${R1_DATA_DIR}/gsm8k_train.jsonl`). A relative path is relative
to the main checkout, so that a run in its own git worktree reads the same file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline_lib.errors import DataError
from pipeline_lib.storage.allowed import require_allowed
from pipeline_lib.storage.hash import hash_file
from pipeline_lib.tracking.locations import main_checkout

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_FORMATS = (".jsonl", ".json", ".csv", ".parquet")


def resolve_path(text: str) -> Path:
    """The file a parameter names.

    Raises:
        DataError: An environment variable that is not set, or whose name does not end in `_DIR` (a path is printed and kept;
            the worker's secrets must not be read through it); a place that `R1_ALLOWED_DIRS` leaves out.
    """
    expanded = _VARIABLE.sub(lambda match: _directory(text, match[1] or match[2]), text)
    try:
        path = main_checkout() / Path(expanded).expanduser()
    except RuntimeError as error:  # ~nobody-of-that-name
        raise DataError(f"{text}: {error}. Write the path out.") from None
    return require_allowed(path)


def _directory(text: str, name: str) -> str:
    if not name.endswith("_DIR"):
        raise DataError(f"{text}: only variables whose names end in _DIR are filled in. Write the path out.")
    value = os.environ.get(name)
    if not value:
        raise DataError(f"{text}: the environment variable {name} is not set. Set it or write the path out.")
    return value


def check_sha256(path: Path, expected: str | None) -> None:
    """Raise DataError when the file is not the one whose hash the parameters name."""
    if expected is not None and (found := hash_file(path)) != expected.lower():
        raise DataError(
            f"{path}: sha256 is {found}, the parameters say {expected}. Get that version or correct it."
        )


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every row with its number, from 0. Raises DataError naming file, row and remedy; also when there is none."""
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file() raises for a name that is too long
        raise DataError(f"{path}: no such file. Correct the path in params.yaml.")
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind not in _FORMATS:
        raise DataError(
            f"{path}: cannot tell its format. Name it with one of {', '.join(_FORMATS)} (optionally .gz)."
        )
    number = -1
    try:
        for number, row in enumerate(_parse(path, kind)):
            if not isinstance(row, dict):
                raise DataError(
                    f"{path}: row {number} is a {type(row).__name__}, it must be an object with columns."
                )
            yield number, row
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}: row {number + 1} is not readable as {kind[1:]} ({reason}). Mend the file."
        ) from error
    if number < 0:
        raise DataError(f"{path}: the file is empty. Choose another file.")


def _parse(path: Path, kind: str) -> Iterator[Any]:
    """Rows of one format, unchecked."""
    if kind == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        if kind == ".csv":
            yield from csv.DictReader(text)
        elif kind == ".json":
            yield from json.load(text)
        else:
            yield from (json.loads(line) for line in text if line.strip())
