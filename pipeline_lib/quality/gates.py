"""Each gate: which files it reads, what it computes for them, what it expects.

A file whose columns are not the layout's is reported as such and judged no further: the other expectations would
all fail for the same reason. A file that is missing or empty is a DataError.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_lib.data.decontamination import BenchmarkIndex
from pipeline_lib.data.schema import (
    PREFERENCES,
    PROBLEMS,
    ROWS_AT_ONCE,
    SAFETY,
    SAMPLES,
    Layout,
    read_problems,
    read_table,
)
from pipeline_lib.errors import DataError
from pipeline_lib.params import GateParams
from pipeline_lib.quality.evidence import (
    Evidence,
    PreferenceEvidence,
    ProblemEvidence,
    SafetyEvidence,
    SampleEvidence,
)
from pipeline_lib.quality.gate import ROW, GatePart, load_great_expectations, run_gate
from pipeline_lib.quality.reverify import Row
from pipeline_lib.types import Problem, Split

if TYPE_CHECKING:
    import pandas as pd

    from pipeline_lib.quality.suites import Suite

PROBLEM_FOLDER = Path("data/problems")
BENCHMARK_FOLDER = PROBLEM_FOLDER / "benchmarks"
_MAY_BE_BLANK = ("category", "tests")
"""Columns without nulls that may well say nothing: only some sources have categories, only code has tests."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What every gate is told."""

    stage: str
    bounds: GateParams
    language: str
    """Target language."""
    ngram: int
    """n of the benchmark overlap."""
    root: Path
    """The worktree; every path below is relative to it."""


@dataclass(frozen=True, slots=True)
class _File:
    """One file of a gate."""

    path: Path
    layout: Layout[Any]
    evidence: Evidence
    """Adds the computed columns."""
    suite: Callable[[], Suite]


def check_problems(settings: GateSettings) -> dict[str, int]:
    """Gate of data/problems: training and general problems, and every benchmark. Raises GateFailed, DataError."""
    index = _benchmark_index(settings)
    # A benchmark, or the general set, may be small and of one kind.
    small = settings.bounds.model_copy(update={"min_rows": 1, "min_domain_share": 0.0})
    files = [
        _problem_file(settings, PROBLEM_FOLDER / "train.parquet", settings.bounds, Split.TRAIN, index),
        _problem_file(settings, PROBLEM_FOLDER / "general.parquet", small, Split.TRAIN, index),
    ]
    files += [
        _problem_file(settings, path, small, Split.HELDOUT, None) for path in _benchmark_paths(settings.root)
    ]
    return _check(settings, files)


def check_samples(settings: GateSettings, path: Path) -> dict[str, int]:
    """Gate of cold-start, rejection or distillation data at `path`. Raises GateFailed, DataError."""
    evidence = SampleEvidence(
        problems=_answerable(settings.root),
        language=settings.language,
        index=_benchmark_index(settings),
        reverify=settings.bounds.reverify,
    )

    def suite() -> Suite:
        from pipeline_lib.quality.suites import sample_suite

        return sample_suite(settings.bounds, settings.language)

    return _check(settings, [_File(path, SAMPLES, evidence, suite)])


def check_preferences(settings: GateSettings) -> dict[str, int]:
    """Gate of the reward models' data: preference pairs and safety examples. Raises GateFailed, DataError."""
    index = _benchmark_index(settings)

    def pair_suite() -> Suite:
        from pipeline_lib.quality.suites import preference_suite

        return preference_suite(settings.bounds)

    def example_suite() -> Suite:
        from pipeline_lib.quality.suites import safety_suite

        return safety_suite(settings.bounds)

    pairs = PreferenceEvidence(language=settings.language, index=index)
    return _check(
        settings,
        [
            _File(PROBLEM_FOLDER / "preferences.parquet", PREFERENCES, pairs, pair_suite),
            _File(PROBLEM_FOLDER / "safety.parquet", SAFETY, SafetyEvidence(index=index), example_suite),
        ],
    )


def report_path(stage: str) -> Path:
    """The JSON report of a gate, relative to the worktree."""
    return Path("reports/gates") / f"{stage}.json"


def docs_path(stage: str) -> Path:
    """The Data Docs of a gate, relative to the worktree."""
    return Path("reports/data_docs") / stage


def _check(settings: GateSettings, files: Sequence[_File]) -> dict[str, int]:
    # Great Expectations' import is mostly processor time of one core; the columns are computed on the other meanwhile.
    loading = threading.Thread(target=load_great_expectations, name="import-great-expectations")
    loading.start()
    try:
        computed = [(file, *_computed(settings.root, file, loading)) for file in files]
    finally:
        loading.join()
    parts = [part for file, table, frame in computed for part in _parts(file, table, frame)]
    root = settings.root
    return run_gate(
        settings.stage, parts, root / report_path(settings.stage), root / docs_path(settings.stage)
    )


def _schema_rows(file: _File, table: pa.Table) -> list[Row]:
    """One row for each column of the layout: the type it must have and the one it has."""
    rows: list[Row] = []
    for number, wanted in enumerate(file.layout.schema):
        found = None
        if wanted.name in table.column_names:
            kind = table.schema.field(wanted.name).type
            # Arrow spells the same list type in two ways (item, element).
            found = str(wanted.type) if kind.equals(wanted.type) else str(kind)
        rows.append(
            {
                ROW: number,
                "id": wanted.name,
                "column": wanted.name,
                "wanted": str(wanted.type),
                "found": found,
            }
        )
    return rows


def _computed(root: Path, file: _File, loading: threading.Thread) -> tuple[pa.Table, pd.DataFrame | None]:
    """The table of a file, and what its rows are judged by; None when the columns are not the layout's.

    The frame has the computed columns and those of the file that an expectation looks at: long texts stay in the
    table, where a row that is refused finds them. `loading`: the import that suites wait for.
    """
    table = read_table(root / file.path, file.layout)
    if any(row["found"] != row["wanted"] for row in _schema_rows(file, table)):
        return table, None
    for rows in _numbered(table, f"{file.path}: survey"):
        file.evidence.survey(rows)
    file.evidence.verify(lambda numbers: _take(table, numbers))
    needed = [
        field.name for field in file.layout.schema if not field.nullable and field.name not in _MAY_BE_BLANK
    ]
    loading.join()
    import pandas as pd  # Great Expectations imports it too, in its thread

    looked_at = _looked_at(file, table)
    kept: list[pd.DataFrame] = []
    for rows in _numbered(table, f"{file.path}: judge"):
        for row in rows:
            empty = [name for name in needed if row[name] is None or not str(row[name]).strip()]
            row["empty_columns"] = ", ".join(empty) or None
        file.evidence.judge(rows)
        computed = [name for name in rows[0] if name not in table.column_names]
        kept.append(pd.DataFrame(rows, columns=[*computed, *looked_at], dtype=object))
    return table, pd.concat(kept, ignore_index=True)


def _numbered(table: pa.Table, title: str) -> Iterator[list[Row]]:
    """The table's rows with their numbers, some at a time."""
    from tqdm import tqdm

    with tqdm(total=table.num_rows, desc=title, unit="row", delay=5.0, mininterval=2) as bar:
        for first in range(0, table.num_rows, ROWS_AT_ONCE):
            rows = table.slice(first, ROWS_AT_ONCE).to_pylist()
            yield _with_numbers(rows, range(first, first + len(rows)))
            bar.update(len(rows))


def _with_numbers(rows: list[Row], numbers: Sequence[int]) -> list[Row]:
    for number, row in zip(numbers, rows, strict=True):
        row[ROW] = number
    return rows


def _take(table: pa.Table, numbers: Sequence[int]) -> list[Row]:
    return _with_numbers(table.take(pa.array(numbers, pa.int64())).to_pylist(), numbers)


def _looked_at(file: _File, table: pa.Table) -> list[str]:
    """The file's own columns that its suite needs, and the id."""
    names = {"id"}
    for expectation in file.suite():
        settings = expectation.configuration.kwargs
        names |= {settings.get(role, "") for role in ("column", "column_A", "column_B")}
        names |= set(settings.get("column_list", ()))
    return [name for name in table.column_names if name in names]


def _parts(file: _File, table: pa.Table, frame: pd.DataFrame | None) -> list[GatePart]:
    """The columns of a file, and its rows where the columns are right."""
    import pandas as pd

    from pipeline_lib.quality.suites import schema_suite

    name = file.path.as_posix()
    schema = pd.DataFrame(_schema_rows(file, table), dtype=object)
    parts = [GatePart(f"{name}: columns", schema, schema_suite())]
    if frame is not None:
        parts.append(GatePart(name, frame, file.suite(), table))
    return parts


def _problem_file(
    settings: GateSettings, path: Path, bounds: GateParams, split: Split, index: BenchmarkIndex | None
) -> _File:
    evidence = ProblemEvidence(language=settings.language, index=index, reverify=bounds.reverify)

    def suite() -> Suite:
        from pipeline_lib.quality.suites import problem_suite

        return problem_suite(bounds, split)

    return _File(path, PROBLEMS, evidence, suite)


def _benchmark_paths(root: Path) -> list[Path]:
    """Benchmark files relative to the worktree. Raises DataError when there is none."""
    found = sorted(path.relative_to(root) for path in (root / BENCHMARK_FOLDER).glob("*.parquet"))
    if not found:
        raise DataError(f"{root / BENCHMARK_FOLDER}: no benchmark. Run `dvc repro prepare_problems`.")
    return found


def _benchmark_index(settings: GateSettings) -> BenchmarkIndex:
    """Every benchmark's questions. A broken benchmark file is left to the problem gate, which names its row."""
    problems: list[Problem] = []
    for path in _benchmark_paths(settings.root):
        try:
            problems += read_problems(settings.root / path)
        except DataError:
            if settings.stage != "validate_problems":
                raise
    return BenchmarkIndex(problems, settings.ngram)


def _answerable(root: Path) -> dict[str, Problem]:
    """Problem id -> problem, of the sets that samples answer."""
    sets = (PROBLEM_FOLDER / "train.parquet", PROBLEM_FOLDER / "general.parquet")
    return {problem.id: problem for path in sets for problem in read_problems(root / path)}
