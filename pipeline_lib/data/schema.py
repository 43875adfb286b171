"""The Parquet layouts of the pipeline's data: problem sets, SFT samples, preference pairs, safety examples.

Each layout is an Arrow schema whose fields carry their own description, so a file documents itself
(`python -c "import pyarrow.parquet as q; print(q.read_schema('data/problems/train.parquet'))"`).
The same records always give the same bytes: no timestamps, no pandas metadata, one fixed writer setting
(design §3: two fresh clones must write the same outputs).

Reading is strict: a missing column, a null where none is allowed or an unknown enum value is a DataError that
names file, column, row and remedy. `read_table` alone is lenient, for the gates that must look at bad rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.errors import DataError
from pipeline_lib.storage.atomic import atomic_path
from pipeline_lib.types import Domain, Outcome, Problem, Split

Record = TypeVar("Record")


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
    return lambda record: {name: getattr(record, name) for name in names}


def _problem_row(problem: Problem) -> dict[str, Any]:
    return {**_as_row(PROBLEM_SCHEMA.names)(problem), "tests": list(problem.tests)}


def _problem(row: dict[str, Any]) -> Problem:
    return Problem(
        **{**row, "domain": Domain(row["domain"]), "split": Split(row["split"]), "tests": tuple(row["tests"])}
    )


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

    Raises DataError when there is nothing to write or a value does not fit its column, StorageError when the disk
    is full.
    """
    rows = [layout.to_row(record) for record in records]
    if not rows:
        raise DataError(
            f"{path}: the {layout.name} would be empty: nothing is left after selection and filters."
        )
    _check_rows(path, rows, layout)
    try:
        table = pa.Table.from_pylist(rows, schema=layout.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{path}: a value does not fit the {layout.name} schema: {error}") from error
    with atomic_path(Path(path), table.nbytes) as temporary, temporary.open("wb") as sink:
        pq.write_table(table, sink, compression="zstd", version="2.6", row_group_size=65_536)


def read_table(path: Path, layout: Layout[Any]) -> pa.Table:
    """The raw table, its rows unchecked. Raises DataError: no file, not Parquet, or no row at all."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file. Run the stage that writes this {layout.name} (`dvc repro`).")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable Parquet file ({reason}). Write it again.") from error
    if table.num_rows == 0:
        raise DataError(
            f"{path}: the {layout.name} is empty (0 rows). Choose another source or looser filters."
        )
    return table


def read_records(path: Path, layout: Layout[Record]) -> list[Record]:
    """Every record of the file in order. Raises DataError naming file, column, row and remedy."""
    path = Path(path)
    table = read_table(path, layout)
    missing = [name for name in layout.schema.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{path}: column {missing[0]!r} is missing (has {', '.join(table.column_names)}). "
            f"A {layout.name} needs {', '.join(layout.schema.names)}."
        )
    for wanted in layout.schema:
        found = table.schema.field(wanted.name).type
        if not found.equals(wanted.type) and not pa.types.is_null(found):
            raise DataError(f"{path}: column {wanted.name!r} is {found}, it must be {wanted.type}. Cast it.")
    rows = table.select(layout.schema.names).to_pylist()
    _check_rows(path, rows, layout)
    return [layout.from_row(row) for row in rows]


def _check_rows(path: Path, rows: Sequence[dict[str, Any]], layout: Layout[Any]) -> None:
    """Raise DataError for the first row with a null, an empty id or an unknown enum value."""
    required = [field.name for field in layout.schema if not field.nullable]
    for number, row in enumerate(rows):
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
