"""The Parquet layouts: round trips, the same bytes every time, and errors that name file, column, row and remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.data import schema
from pipeline_lib.data.schema import PreferencePair, SafetyExample, SftSample
from pipeline_lib.errors import DataError
from pipeline_lib.types import Domain, Outcome, Problem, Split

PROBLEMS = [
    Problem("m-1", Domain.MATH, "1 + 1?", answer="2", source="own", licence="MIT", difficulty=0.25),
    Problem(
        "c-1",
        Domain.CODE,
        "double",
        tests=("assert f(1) == 2", "assert f(0) == 0"),
        entry_point="f",
        reference="def f(x):\n return 2 * x",
        category="function",
        split=Split.HELDOUT,
    ),
    Problem("g-1", Domain.GENERAL, "首都?", answer="北京"),
]
SAMPLE = SftSample(
    "s-1", "m-1", Domain.MATH, "1 + 1?", "<think></think><answer>2</answer>", Outcome.CORRECT, "en", "r1"
)


def test_problems_survive_the_round_trip(tmp_path: Path) -> None:
    schema.write_problems(tmp_path / "p.parquet", PROBLEMS)
    assert schema.read_problems(tmp_path / "p.parquet") == PROBLEMS


def test_the_other_layouts_survive_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    schema.write_samples(path, [SAMPLE])
    assert schema.read_samples(path) == [SAMPLE]
    pair = PreferencePair("p-1", "q", "good", "bad", "qa")
    schema.write_preferences(path, [pair])
    assert schema.read_preferences(path) == [pair]
    example = SafetyExample("e-1", "q", "no", True)
    schema.write_safety(path, [example])
    assert schema.read_safety(path) == [example]


def test_the_same_problems_are_the_same_bytes(tmp_path: Path) -> None:
    schema.write_problems(tmp_path / "a.parquet", PROBLEMS)
    schema.write_problems(tmp_path / "b.parquet", iter(PROBLEMS))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_every_column_is_documented_in_the_file(tmp_path: Path) -> None:
    schema.write_problems(tmp_path / "a.parquet", PROBLEMS)
    for field in pq.read_schema(tmp_path / "a.parquet"):
        assert len(field.metadata[b"description"]) > 10, field.name


@pytest.mark.parametrize(
    "write", [schema.write_problems, schema.write_samples, schema.write_preferences, schema.write_safety]
)
def test_nothing_to_write_is_an_error(tmp_path: Path, write) -> None:
    with pytest.raises(DataError, match="empty"):
        write(tmp_path / "x.parquet", [])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([], schema=schema.PROBLEM_SCHEMA), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x\.parquet: the problem set is empty \(0 rows\)"):
        schema.read_problems(tmp_path / "x.parquet")


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file.*dvc repro"):
        schema.read_problems(tmp_path / "x.parquet")


def test_what_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("id,prompt\n")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable Parquet file"):
        schema.read_problems(tmp_path / "x.parquet")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    schema.write_safety(tmp_path / "x.parquet", [SafetyExample("a", "b", "c", True)])
    with pytest.raises(DataError, match="column 'domain' is missing"):
        schema.read_problems(tmp_path / "x.parquet")


def _edited(path: Path, **columns: list[object]) -> Path:
    """A good file with some columns replaced."""
    schema.write_problems(path, PROBLEMS)
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table, path)
    return path


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'prompt' is int64, it must be string"):
        schema.read_problems(_edited(tmp_path / "x.parquet", prompt=[1, 2, 3]))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("prompt", ["a", None, "b"], r"row 1 \(id 'c-1'\): column 'prompt' is empty"),
        ("id", ["a", "b", ""], r"row 2 \(id ''\): column 'id' is empty"),
        (
            "domain",
            ["math", "poetry", "math"],
            r"row 1 \(id 'c-1'\): column 'domain' = 'poetry': use one of math",
        ),
        ("split", ["train", "train", "test"], r"row 2 .*'split' = 'test': use one of train, heldout"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, column: str, values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        schema.read_problems(_edited(tmp_path / "x.parquet", **{column: values}))


def test_a_bad_row_is_not_written_either(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 .*'prompt' is empty"):
        schema.write_problems(tmp_path / "x.parquet", [PROBLEMS[0], replace(PROBLEMS[1], prompt=None)])
    assert list(tmp_path.iterdir()) == []
