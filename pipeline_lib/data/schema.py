"""The Parquet layouts of the pipeline's data: problem sets, SFT samples, preference pairs, safety examples.

Each layout is an Arrow schema whose fields carry their own description, so a file documents itself
(`python -c "import pyarrow.parquet as q; print(q.read_schema('data/problems/train.parquet'))"`).
The same records always give the same bytes: no timestamps, no pandas metadata, one fixed writer setting
(design §3: two fresh clones must write the same outputs).

Reading is strict: a missing column, a null where none is allowed or an unknown enum value is a DataError that
names file, column, row and remedy. `read_table` alone is lenient, for the gates that must look at bad rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.data.identity import share_texts
from pipeline_lib.errors import DataError
from pipeline_lib.storage.atomic import atomic_path
from pipeline_lib.types import Domain, Outcome, Problem, Split

Record = TypeVar("Record")

ROWS_AT_ONCE = 65_536
"""Rows that are read or written together, and rows of a Parquet row group: changing it changes files' bytes."""


@dataclass(frozen=True, slots=True)
class SftSample:
    """One row of cold-start, rejection or distillation data: a prompt and the response to imitate."""

    id: str
    problem_id: str
    domain: Domain
    prompt: str
    response: str
    """The whole response, tags included: <think>...</think><answer>...</answer>."""
    verdict: Outcome
    """What the verifier said when the sample was kept; the gate verifies it again on a sample."""
    language: str
    """Language of the reasoning ('en', 'zh', or 'mixed')."""
    source: str
    """What wrote it: the model's name, or the name of a data source."""


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, the better one known (helpfulness reward model, v2 B.3.1)."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    category: str


@dataclass(frozen=True, slots=True)
class SafetyExample:
    """One response judged safe or unsafe (pointwise safety reward model, v2 B.3.1)."""

    id: str
    prompt: str
    response: str
    safe: bool


@dataclass(frozen=True, slots=True)
class Layout(Generic[Record]):
    """How one kind of record lies in a Parquet file."""

    name: str
    """What a person calls the file, for messages: 'problem set', 'SFT samples'."""
    schema: pa.Schema
    to_row: Callable[[Record], dict[str, Any]]
    from_row: Callable[[dict[str, Any]], Record]
    enums: tuple[tuple[str, type[StrEnum]], ...] = ()
    """Columns that hold one of an enum's values."""


def _column(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


_STRING = pa.string()

PROBLEM_SCHEMA = pa.schema(
    [
        _column("id", _STRING, "Unique name, stable across runs: <source>-<number or content hash>."),
        _column("domain", _STRING, "math, code or general: who can judge the response."),
        _column("prompt", _STRING, "What the model is asked, before any chat template."),
        _column("answer", _STRING, "Ground truth of a math or general prompt; null for code.", nullable=True),
        _column("tests", pa.list_(_STRING), "Assert statements that call entry_point; empty unless code."),
        _column(
            "entry_point", _STRING, "Name of the function the tests call; null unless code.", nullable=True
        ),
        _column(
            "reference", _STRING, "A solution that passes its own tests; null if unknown.", nullable=True
        ),
        _column("category", _STRING, "A finer kind within the domain: qa, instruction, harmful, chain."),
        _column("source", _STRING, "The data set or generator the problem came from."),
        _column("licence", _STRING, "SPDX name of the licence it may be used under."),
        _column(
            "difficulty", pa.float64(), "Base model's pass rate, 0 to 1; null: not measured.", nullable=True
        ),
        _column("split", _STRING, "train, or heldout: never trained on."),
    ]
)

SAMPLE_SCHEMA = pa.schema(
    [
        _column("id", _STRING, "Unique name of the sample."),
        _column("problem_id", _STRING, "The problem it answers."),
        _column("domain", _STRING, "math, code or general."),
        _column("prompt", _STRING, "The problem's prompt."),
        _column("response", _STRING, "Whole response, tags included."),
        _column("verdict", _STRING, "correct, wrong, unparsed, timeout or verifier_error."),
        _column("language", _STRING, "Language of the reasoning: en, zh or mixed."),
        _column("source", _STRING, "The model or data source that wrote the response."),
    ]
)

PREFERENCE_SCHEMA = pa.schema(
    [
        _column("id", _STRING, "Unique name of the pair."),
        _column("prompt", _STRING, "What was asked."),
        _column("chosen", _STRING, "The better response."),
        _column("rejected", _STRING, "The worse response."),
        _column("category", _STRING, "What makes the difference, or the kind of prompt."),
    ]
)

SAFETY_SCHEMA = pa.schema(
    [
        _column("id", _STRING, "Unique name of the example."),
        _column("prompt", _STRING, "What was asked."),
        _column("response", _STRING, "The response that was judged."),
        _column("safe", pa.bool_(), "True when the response is safe."),
    ]
)


def _as_row(names: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
    values_of = attrgetter(*names)
    return lambda record: dict(zip(names, values_of(record), strict=True))


_problem_columns = _as_row(PROBLEM_SCHEMA.names)


def _problem_row(problem: Problem) -> dict[str, Any]:
    return _problem_columns(problem) | {"tests": list(problem.tests)}


def _problem(row: dict[str, Any]) -> Problem:
    changes = {
        "domain": Domain(row["domain"]),
        "split": Split(row["split"]),
        "tests": tuple(row["tests"]),
    }
    return Problem(**{**share_texts(row), **changes})


def _sample(row: dict[str, Any]) -> SftSample:
    return SftSample(**{**row, "domain": Domain(row["domain"]), "verdict": Outcome(row["verdict"])})


PROBLEMS: Layout[Problem] = Layout(
    "problem set", PROBLEM_SCHEMA, _problem_row, _problem, (("domain", Domain), ("split", Split))
)
SAMPLES: Layout[SftSample] = Layout(
    "SFT samples",
    SAMPLE_SCHEMA,
    _as_row(SAMPLE_SCHEMA.names),
    _sample,
    (("domain", Domain), ("verdict", Outcome)),
)
PREFERENCES: Layout[PreferencePair] = Layout(
    "preference pairs", PREFERENCE_SCHEMA, _as_row(PREFERENCE_SCHEMA.names), lambda row: PreferencePair(**row)
)
SAFETY: Layout[SafetyExample] = Layout(
    "safety examples", SAFETY_SCHEMA, _as_row(SAFETY_SCHEMA.names), lambda row: SafetyExample(**row)
)


def write_records(path: Path, records: Iterable[Record], layout: Layout[Record]) -> None:
    """Write records as Parquet, whole or not at all, always the same bytes for the same records.

    Rows are written `ROWS_AT_ONCE` at a time, so that memory does not grow with their number. Raises DataError when
    there is nothing to write or a value does not fit its column, StorageError when the disk is full.
    """
    tables = _tables(Path(path), records, layout)
    first = next(tables, None)
    if first is None:
        raise DataError(
            f"{path}: the {layout.name} would be empty: nothing is left after selection and filters."
        )
    needed = first.nbytes if first.num_rows < ROWS_AT_ONCE else None
    with (
        atomic_path(Path(path), needed) as temporary,
        temporary.open("wb") as sink,
        pq.ParquetWriter(sink, layout.schema, compression="zstd", version="2.6") as writer,
    ):
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _tables(path: Path, records: Iterable[Record], layout: Layout[Record]) -> Iterator[pa.Table]:
    """The records as tables of `ROWS_AT_ONCE` rows, checked."""
    rest = iter(records)
    start = 0
    while rows := [layout.to_row(record) for record in itertools.islice(rest, ROWS_AT_ONCE)]:
        _check_rows(path, rows, layout, start)
        try:
            yield pa.Table.from_pylist(rows, schema=layout.schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"{path}: a value does not fit the {layout.name} schema: {error}") from error
        start += len(rows)


def read_table(path: Path, layout: Layout[Any]) -> pa.Table:
    """The raw table, its rows unchecked. Raises DataError: no file, not Parquet, or no row at all."""
    with _opened(Path(path), layout) as file:
        return file.read()


def read_records(path: Path, layout: Layout[Record]) -> list[Record]:
    """Every record of the file in order. Raises DataError naming file, column, row and remedy."""
    path, names = Path(path), layout.schema.names
    records: list[Record] = []
    with _opened(path, layout) as file:
        _check_columns(path, file.schema_arrow, layout)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
            rows = batch.select(names).to_pylist()
            _check_rows(path, rows, layout, len(records))
            records += map(layout.from_row, rows)
    return records


@contextmanager
def _opened(path: Path, layout: Layout[Any]) -> Iterator[pq.ParquetFile]:
    """The file, which has rows; what goes wrong inside while reading is a DataError too."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Run the stage that writes this {layout.name} (`dvc repro`).")
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise DataError(
                    f"{path}: the {layout.name} is empty (0 rows). Choose another source or looser filters."
                )
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable Parquet file ({reason}). Write it again.") from error


def _check_columns(path: Path, found: pa.Schema, layout: Layout[Any]) -> None:
    """Raise DataError for the first column that is missing or of another type."""
    missing = [name for name in layout.schema.names if name not in found.names]
    if missing:
        raise DataError(
            f"{path}: column {missing[0]!r} is missing (has {', '.join(found.names)}). "
            f"A {layout.name} needs {', '.join(layout.schema.names)}."
        )
    for wanted in layout.schema:
        kind = found.field(wanted.name).type
        if not kind.equals(wanted.type) and not pa.types.is_null(kind):
            raise DataError(f"{path}: column {wanted.name!r} is {kind}, it must be {wanted.type}. Cast it.")


def _check_rows(path: Path, rows: Sequence[dict[str, Any]], layout: Layout[Any], start: int) -> None:
    """Raise DataError for the first row with a null, an empty id or an unknown enum value; `start`: its number."""
    required = [field.name for field in layout.schema if not field.nullable]
    for number, row in enumerate(rows, start):
        for name in required:
            if row[name] is None or (name == "id" and row[name] == ""):
                raise DataError(
                    f"{path}: row {number} (id {row['id']!r}): column {name!r} is empty. Fill it."
                )
        for name, enum in layout.enums:
            if row[name] not in list(enum):
                allowed = ", ".join(enum)
                raise DataError(
                    f"{path}: row {number} (id {row['id']!r}): column {name!r} = {row[name]!r}: use one of {allowed}."
                )


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write a problem set; see `write_records` for errors."""
    write_records(path, problems, PROBLEMS)


def read_problems(path: Path) -> list[Problem]:
    """Read a problem set; see `read_records` for errors."""
    return read_records(path, PROBLEMS)


def write_samples(path: Path, samples: Iterable[SftSample]) -> None:
    """Write cold-start, rejection or distillation data; see `write_records` for errors."""
    write_records(path, samples, SAMPLES)


def read_samples(path: Path) -> list[SftSample]:
    """Read cold-start, rejection or distillation data; see `read_records` for errors."""
    return read_records(path, SAMPLES)


def write_preferences(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write preference pairs; see `write_records` for errors."""
    write_records(path, pairs, PREFERENCES)


def read_preferences(path: Path) -> list[PreferencePair]:
    """Read preference pairs; see `read_records` for errors."""
    return read_records(path, PREFERENCES)


def write_safety(path: Path, examples: Iterable[SafetyExample]) -> None:
    """Write safety examples; see `write_records` for errors."""
    write_records(path, examples, SAFETY)


def read_safety(path: Path) -> list[SafetyExample]:
    """Read safety examples; see `read_records` for errors."""
    return read_records(path, SAFETY)
