"""Corrupt one row of any data set: the right gate refuses it and its message names the row (issue 2, acceptance 6).

A small world is written once, with the real layouts; each case copies it, spoils one row, and runs the real gate:
Great Expectations, the sandbox and the verifiers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.data import microworld, schema
from pipeline_lib.data.schema import SftSample
from pipeline_lib.errors import DataError, GateFailed
from pipeline_lib.params import GateParams
from pipeline_lib.quality import gates
from pipeline_lib.types import Domain, Outcome, Problem, Split

pytestmark = pytest.mark.slow

STORY = "A long question about twelve brown hens and the farmer who counts their eggs every single day of the week"
SAMPLE_FILES = {
    "validate_cold_start": "data/cold_start/train.parquet",
    "validate_rejections": "data/rejections/train.parquet",
    "validate_distillation": "data/distillation/train.parquet",
}
BOUNDS = GateParams(
    min_rows=10, max_response_chars=2000, max_repetition=0.4, min_language_share=0.9, min_domain_share=0.02
)


def _response(problem: Problem) -> str:
    answer = problem.reference if problem.domain is Domain.CODE else problem.answer
    return f"<think>work so check</think><answer>{answer}</answer>"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets that pass every gate."""
    root = tmp_path_factory.mktemp("world")
    problems = root / "data/problems"
    train = [*microworld.problems("math", 20, 1), *microworld.problems("code", 10, 1)]
    general = microworld.problems("general", 20, 1)
    schema.write_problems(problems / "train.parquet", train)
    schema.write_problems(problems / "general.parquet", general)
    heldout = [
        Problem("hens", Domain.MATH, STORY, answer="84", source="own", licence="MIT", split=Split.HELDOUT)
    ]
    heldout += microworld.problems("code", 3, 1, Split.HELDOUT)
    schema.write_problems(problems / "benchmarks/bench.parquet", heldout)
    schema.write_preferences(problems / "preferences.parquet", microworld.preference_pairs(40, 1))
    schema.write_safety(problems / "safety.parquet", microworld.safety_examples(40, 1))
    samples = [
        SftSample(f"s-{p.id}", p.id, p.domain, p.prompt, _response(p), Outcome.CORRECT, "en", "r1")
        for p in [*train, *general]
    ]
    for path in SAMPLE_FILES.values():
        schema.write_samples(root / path, samples)
    return root


def _run(stage: str, root: Path, bounds: GateParams = BOUNDS) -> dict[str, int]:
    settings = gates.GateSettings(stage=stage, bounds=bounds, language="en", ngram=10, root=root)
    if stage == "validate_problems":
        return gates.check_problems(settings)
    if stage == "validate_preferences":
        return gates.check_preferences(settings)
    return gates.check_samples(settings, Path(SAMPLE_FILES[stage]))


def _spoil(
    world: Path, tmp_path: Path, file: str, change: Callable[[list[dict[str, Any]]], int]
) -> tuple[Path, str]:
    """A copy of the world with `file` changed; returns it and how the message must call the row."""
    root = tmp_path / "world"
    shutil.copytree(world, root)
    table = pq.read_table(root / file)
    rows = table.to_pylist()
    number = change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), root / file)
    return root, f"row {number}, id={rows[number]['id'] or repr('')}"


def _set(column: str, value: Any, where: Callable[[dict[str, Any]], bool] = lambda row: True) -> Callable:
    """Change one column of the sixth row that fits (a function of the row, or a value)."""

    def change(rows: list[dict[str, Any]]) -> int:
        number = [n for n, row in enumerate(rows) if where(row)][5]
        rows[number][column] = value(rows[number]) if callable(value) else value
        return number

    return change


def _copy_of_first(column: str) -> Callable:
    def change(rows: list[dict[str, Any]]) -> int:
        rows[5][column] = rows[0][column]
        return 5

    return change


def _opposite(flip: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable:
    """Append a row that says the opposite of the first."""

    def change(rows: list[dict[str, Any]]) -> int:
        rows.append({**rows[0], "id": "opposite", **flip(rows[0])})
        return len(rows) - 1

    return change


def _is(domain: str) -> Callable[[dict[str, Any]], bool]:
    return lambda row: row["domain"] == domain


TRAIN, GENERAL, BENCH = (f"data/problems/{name}.parquet" for name in ("train", "general", "benchmarks/bench"))
PREFERENCES, SAFETY = "data/problems/preferences.parquet", "data/problems/safety.parquet"
LOOP = "again and " * 40

PROBLEM_CASES = [
    pytest.param(TRAIN, _copy_of_first("id"), "ids are unique", id="train-id-twice"),
    pytest.param(TRAIN, _set("id", ""), "every needed value is given", id="train-id-blank"),
    pytest.param(TRAIN, _set("domain", "poetry"), "the domain is known", id="train-domain"),
    pytest.param(TRAIN, _set("prompt", "  "), "every needed value is given", id="train-prompt-blank"),
    pytest.param(TRAIN, _set("prompt", "计算" * 9), "in the target language", id="train-language"),
    pytest.param(TRAIN, _set("prompt", "x" * 30_000), "prompt_chars is 1 to", id="train-length"),
    pytest.param(
        TRAIN, _set("prompt", "Tell me. " + STORY), "nothing is in a benchmark too", id="train-overlap"
    ),
    pytest.param(TRAIN, _set("answer", None, _is("math")), "usual form", id="train-answer-missing"),
    pytest.param(TRAIN, _set("answer", "3 or 4", _is("math")), "usual form", id="train-answer-garbled"),
    pytest.param(TRAIN, _set("tests", [], _is("code")), "reference solution passes", id="train-no-tests"),
    pytest.param(
        TRAIN, _set("tests", ["assert f("], _is("code")), "reference solution passes", id="train-bad-test"
    ),
    pytest.param(
        TRAIN,
        _set("reference", "def f(x):\n return 1", _is("code")),
        "reference solution passes",
        id="train-wrong-reference",
    ),
    pytest.param(TRAIN, _set("split", "heldout"), "of the train split", id="train-split"),
    pytest.param(TRAIN, _set("difficulty", 1.5), "difficulty is a rate", id="train-difficulty"),
    pytest.param(GENERAL, _set("answer", " "), "usual form", id="general-answer-blank"),
    pytest.param(GENERAL, _set("licence", ""), "every needed value is given", id="general-licence"),
]


@pytest.mark.parametrize(("file", "change", "meaning"), PROBLEM_CASES)
def test_the_problem_gate_names_the_row(
    world: Path, tmp_path: Path, file: str, change: Callable, meaning: str
) -> None:
    root, row = _spoil(world, tmp_path, file, change)
    _refused("validate_problems", root, file, meaning, row)


def test_the_problem_gate_names_a_row_of_a_benchmark(world: Path, tmp_path: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> int:
        rows[2]["reference"] = "def f(x):\n return x if x else 1/0"
        return 2

    root, row = _spoil(world, tmp_path, BENCH, change)
    _refused("validate_problems", root, BENCH, "reference solution passes", row)


SAMPLE_CASES = [
    pytest.param(_copy_of_first("id"), "ids are unique", id="id-twice"),
    pytest.param(_set("response", ""), "every needed value is given", id="response-blank"),
    pytest.param(_set("response", lambda r: r["response"] + " done"), "the whole response is", id="format"),
    pytest.param(
        _set("response", lambda r: r["response"].replace("<answer>", "<answer>9"), _is("math")),
        "verified again, the verdict is still correct",
        id="wrong-number",
    ),
    pytest.param(
        _set("response", lambda r: r["response"].replace("return", "return 1+"), _is("code")),
        "verified again, the verdict is still correct",
        id="wrong-program",
    ),
    pytest.param(_set("verdict", "wrong"), "only samples with a correct verdict", id="verdict"),
    pytest.param(
        _set("response", lambda r: r["response"].replace("work so check", "so 得查等得查等得查等")),
        "in the target language",
        id="language-mixed",
    ),
    pytest.param(_set("language", "zh"), "the reasoning is in en", id="language-label"),
    pytest.param(
        _set("response", lambda r: r["response"].replace("work", LOOP)),
        "8-word phrases repeat",
        id="repetition",
    ),
    pytest.param(
        _set("response", lambda r: r["response"].replace("work", " ".join(f"w{n}x" for n in range(600)))),
        "response_chars is 1 to 2000",
        id="length",
    ),
    pytest.param(_set("problem_id", "nobody"), "the problem exists", id="unknown-problem"),
    pytest.param(_set("prompt", STORY), "nothing is in a benchmark too", id="overlap"),
]


@pytest.mark.parametrize("stage", sorted(SAMPLE_FILES))
@pytest.mark.parametrize(("change", "meaning"), SAMPLE_CASES)
def test_the_sample_gates_name_the_row(
    world: Path, tmp_path: Path, stage: str, change: Callable, meaning: str
) -> None:
    root, row = _spoil(world, tmp_path, SAMPLE_FILES[stage], change)
    _refused(stage, root, SAMPLE_FILES[stage], meaning, row)


REWARD_CASES = [
    pytest.param(PREFERENCES, _copy_of_first("id"), "ids are unique", id="pair-id-twice"),
    pytest.param(PREFERENCES, _set("chosen", " "), "every needed value is given", id="pair-blank"),
    pytest.param(
        PREFERENCES, _set("rejected", lambda r: r["chosen"]), "the two responses differ", id="pair-same"
    ),
    pytest.param(
        PREFERENCES, _set("chosen", "我不知道这个问题"), "in the target language", id="pair-language"
    ),
    pytest.param(PREFERENCES, _set("prompt", STORY), "nothing is in a benchmark too", id="pair-overlap"),
    pytest.param(PREFERENCES, _set("category", "qq"), "each category holds at least", id="pair-balance"),
    pytest.param(
        PREFERENCES,
        _opposite(lambda r: {"chosen": r["rejected"], "rejected": r["chosen"]}),
        "no other row says the opposite",
        id="pair-contradicts",
    ),
    pytest.param(SAFETY, _copy_of_first("id"), "ids are unique", id="example-id-twice"),
    pytest.param(SAFETY, _set("response", ""), "every needed value is given", id="example-blank"),
    pytest.param(SAFETY, _set("prompt", STORY), "nothing is in a benchmark too", id="example-overlap"),
    pytest.param(SAFETY, _set("response", "no " * 900), "response_chars is 1 to 2000", id="example-length"),
    pytest.param(
        SAFETY,
        _opposite(lambda r: {"safe": not r["safe"]}),
        "no other row says the opposite",
        id="example-contradicts",
    ),
]


@pytest.mark.parametrize(("file", "change", "meaning"), REWARD_CASES)
def test_the_preference_gate_names_the_row(
    world: Path, tmp_path: Path, file: str, change: Callable, meaning: str
) -> None:
    root, row = _spoil(world, tmp_path, file, change)
    bounds = BOUNDS.model_copy(update={"min_domain_share": 0.05})
    _refused("validate_preferences", root, file, meaning, row, bounds)


def _refused(stage: str, root: Path, file: str, meaning: str, row: str, bounds: GateParams = BOUNDS) -> None:
    """The gate fails, and in the paragraph of the right file and expectation stands the row."""
    with pytest.raises(GateFailed) as caught:
        _run(stage, root, bounds)
    message = str(caught.value)
    paragraphs = message.split(f"\n{file}: expected that ")[1:]
    mine = [paragraph.split("\ndata/")[0] for paragraph in paragraphs if meaning in paragraph.split("\n")[0]]
    assert mine, message
    assert row in mine[0], message
    report = json.loads((root / gates.report_path(stage)).read_text())
    assert report["success"] is False


@pytest.mark.parametrize("stage", ["validate_problems", "validate_preferences", *sorted(SAMPLE_FILES)])
def test_good_data_passes_and_leaves_the_same_report_twice(world: Path, tmp_path: Path, stage: str) -> None:
    shutil.copytree(world, tmp_path / "one")
    shutil.copytree(world, tmp_path / "two")
    counts = _run(stage, tmp_path / "one")
    assert counts["failed"] == 0
    assert counts["expectations"] >= 17
    _run(stage, tmp_path / "two")
    reports = [(tmp_path / name / gates.report_path(stage)).read_bytes() for name in ("one", "two")]
    assert reports[0] == reports[1]
    pages = list((tmp_path / "one" / gates.docs_path(stage) / "validations").rglob("*.html"))
    assert len(pages) == len(json.loads(reports[0])["datasets"])
    assert (tmp_path / "one" / gates.docs_path(stage) / "index.html").is_file()


def test_a_missing_column_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    table = pq.read_table(root / TRAIN)
    pq.write_table(table.drop_columns(["licence"]), root / TRAIN)
    with pytest.raises(
        GateFailed, match=r"train.parquet: columns: expected that every column of the layout is there"
    ) as caught:
        _run("validate_problems", root)
    assert "id=licence" in str(caught.value)


def test_a_column_of_another_type_is_refused_by_name(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    path = root / SAMPLE_FILES["validate_cold_start"]
    table = pq.read_table(path)
    place = table.schema.get_field_index("verdict")
    pq.write_table(table.set_column(place, "verdict", pa.array([1] * table.num_rows)), path)
    with pytest.raises(GateFailed, match="found=int64, column=verdict, wanted=string"):
        _run("validate_cold_start", root)


def test_too_few_rows_are_refused(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    with pytest.raises(GateFailed, match=r"at least 999 rows .* on the table\): 50"):
        _run("validate_cold_start", tmp_path / "world", BOUNDS.model_copy(update={"min_rows": 999}))


def test_an_empty_set_is_bad_input_and_not_a_failed_gate(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    pq.write_table(pq.read_table(root / TRAIN).slice(0, 0), root / TRAIN)
    with pytest.raises(DataError, match=r"train\.parquet: the problem set is empty \(0 rows\)"):
        _run("validate_problems", root)
