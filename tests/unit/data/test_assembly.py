"""Sources in, clean and disjoint sets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib.data.assembly import assemble
from pipeline_lib.errors import DataError
from pipeline_lib.params import PrepareProblemsParams, SourceSpec
from pipeline_lib.types import Split


def _file(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _gsm8k(path: Path, questions: list[str]) -> SourceSpec:
    rows = [{"question": question, "answer": "#### 1"} for question in questions]
    return SourceSpec(kind="files", options={"path": _file(path, rows), "layout": "gsm8k"})


def _with_role(spec: SourceSpec, role: str) -> SourceSpec:
    return SourceSpec.model_validate({**spec.model_dump(), "role": role})


def _sources(tmp_path: Path, train: list[str], general: list[str]) -> PrepareProblemsParams:
    pairs = [
        {"prompt": "hello", "chosen": "a", "rejected": "b"},
        {"prompt": "hello", "chosen": "a", "rejected": "b"},
        {"prompt": "held out?", "chosen": "a", "rejected": "b"},
    ]
    safety = [{"prompt": "hello", "response": "a", "safe": True}]
    return PrepareProblemsParams(
        sources=[
            _gsm8k(tmp_path / "train.jsonl", train),
            _with_role(_gsm8k(tmp_path / "general.jsonl", general), "general"),
            SourceSpec(
                kind="files", role="preferences", options={"path": _file(tmp_path / "p.jsonl", pairs)}
            ),
            SourceSpec(kind="files", role="safety", options={"path": _file(tmp_path / "s.jsonl", safety)}),
        ]
    )


def test_sets_are_clean_and_everything_dropped_is_counted(tmp_path: Path) -> None:
    suites = {"bench": _gsm8k(tmp_path / "bench.jsonl", ["Held out?", "held out", "Another?"])}
    params = _sources(tmp_path, ["One?", "one", "HELD OUT!", "Two?"], ["Three?"])
    sets = assemble(params, suites, seed=1)
    assert [problem.prompt for problem in sets.train] == ["One?", "Two?"]
    assert {problem.split for problem in sets.train} == {Split.TRAIN}
    assert sorted(problem.prompt for problem in sets.benchmarks["bench"]) == ["Another?", "Held out?"]
    assert {problem.split for problem in sets.benchmarks["bench"]} == {Split.HELDOUT}
    assert [pair.prompt for pair in sets.preferences] == ["hello"]
    assert sets.counts["train.loaded"] == 4
    assert sets.counts["train.dropped_normalised"] == 1
    assert sets.counts["train.dropped_benchmark"] == 1
    assert sets.counts["train.kept"] == sets.counts["train.kept_math"] == 2
    assert sets.counts["preferences.dropped_exact"] == sets.counts["preferences.dropped_benchmark"] == 1
    assert sets.counts["benchmarks.bench"] == 2


def test_a_benchmark_asks_the_same_questions_whatever_the_seed(tmp_path: Path) -> None:
    suites = {"bench": _gsm8k(tmp_path / "bench.jsonl", [f"Question {n}?" for n in range(30)])}
    params = _sources(tmp_path, ["One?"], ["Three?"])
    one, two = (assemble(params, suites, seed=seed).benchmarks["bench"] for seed in (1, 2))
    assert one == two
    assert [problem.prompt for problem in one] != [f"Question {n}?" for n in range(30)]


def test_two_problems_with_one_id_are_an_error(tmp_path: Path) -> None:
    row = {"Body": "b", "Answer": 1.0, "Type": "t", "ID": "7"}
    train = _file(tmp_path / "a.jsonl", [{**row, "Question": "One?"}])
    other = _file(tmp_path / "b.jsonl", [{**row, "Question": "Two?"}])
    params = PrepareProblemsParams(
        sources=[
            SourceSpec(kind="files", options={"path": train, "layout": "svamp"}),
            SourceSpec(kind="files", role="general", options={"path": other, "layout": "svamp"}),
        ]
    )
    with pytest.raises(DataError, match="id 'svamp-7' is in train and in general"):
        assemble(params, {}, seed=1)
