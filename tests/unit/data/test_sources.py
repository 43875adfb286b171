"""Sources are found by file name, checked by their own options, and repeatable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib.data.sources import kinds, load_preferences, load_problems, load_safety
from pipeline_lib.data.tables import resolve_path
from pipeline_lib.errors import ConfigError, DataError, StorageError
from pipeline_lib.params import SourceSpec
from pipeline_lib.types import Domain


def _lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _gsm8k(path: Path, count: int) -> str:
    return _lines(path, [{"question": f"How many is {n}?", "answer": f"#### {n}"} for n in range(count)])


def test_the_sources_are_the_files_of_the_package() -> None:
    assert kinds() == ["files", "hub", "microworld", "reasoning_gym", "s3"]


def test_an_unknown_source_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"kind = 'ftp'.*known: files, hub"):
        load_problems(SourceSpec(kind="ftp"), seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"files\.options\.path = .*Field required; the options are .*path"),
        ({"path": "x", "layuot": "gsm8k"}, r"files\.options\.layuot = 'gsm8k'.*the options are .*layout"),
        ({"path": 3}, r"files\.options\.path = 3: .*string"),
    ],
)
def test_a_wrong_option_is_named_with_the_right_ones(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problems(SourceSpec(kind="files", options=options), seed=1)


def test_a_limit_is_a_fair_draw_in_order_that_the_seed_decides(tmp_path: Path) -> None:
    path = _gsm8k(tmp_path / "a.jsonl", 100)
    spec = SourceSpec(kind="files", limit=10, options={"path": path, "layout": "gsm8k"})
    one = [int(problem.answer or "") for problem in load_problems(spec, seed=1)]
    assert len(one) == 10
    assert one == sorted(one) != list(range(10))
    assert one == [int(problem.answer or "") for problem in load_problems(spec, seed=1)]
    assert one != [int(problem.answer or "") for problem in load_problems(spec, seed=2)]


def test_preferences_and_safety_from_files(tmp_path: Path) -> None:
    pairs = _lines(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "good", "rejected": "bad"}])
    (pair,) = load_preferences(SourceSpec(kind="files", role="preferences", options={"path": pairs}), seed=1)
    assert (pair.chosen, pair.rejected, pair.category) == ("good", "bad", "general")
    examples = _lines(tmp_path / "s.jsonl", [{"prompt": "q", "response": "no", "is_safe": True}])
    (example,) = load_safety(SourceSpec(kind="files", role="safety", options={"path": examples}), seed=1)
    assert example.safe is True
    broken = _lines(tmp_path / "b.jsonl", [{"prompt": "q", "response": "no", "safe": "yes"}])
    with pytest.raises(DataError, match=r"b\.jsonl: row 0: column 'safe' = 'yes'"):
        load_safety(SourceSpec(kind="files", role="safety", options={"path": broken}), seed=1)


def test_a_source_without_the_role_says_so() -> None:
    with pytest.raises(ConfigError, match="this source has no preferences"):
        load_preferences(
            SourceSpec(kind="reasoning_gym", role="preferences", options={"task": "chain_sum", "n": 1}),
            seed=1,
        )


def test_paths_fill_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R1_SOME_DIR", str(tmp_path))
    assert resolve_path("${R1_SOME_DIR}/a.jsonl") == tmp_path / "a.jsonl"
    assert resolve_path("$R1_SOME_DIR/a.jsonl") == tmp_path / "a.jsonl"
    monkeypatch.delenv("R1_SOME_DIR")
    with pytest.raises(DataError, match="environment variable R1_SOME_DIR is not set"):
        resolve_path("${R1_SOME_DIR}/a.jsonl")


def test_no_other_variable_reaches_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush")
    for text in ("/no/${HF_TOKEN}.jsonl", "$HF_TOKEN", "~/${HF_TOKEN}"):
        with pytest.raises(DataError, match="end in _DIR") as refusal:
            resolve_path(text)
        assert "hush" not in str(refusal.value)


def test_only_allowed_directories_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_, closed = tmp_path / "open", tmp_path / "closed"
    for folder in (open_, closed):
        folder.mkdir()
        (folder / "a.jsonl").write_text("{}")
    (open_ / "link.jsonl").symlink_to(closed / "a.jsonl")
    monkeypatch.setenv("R1_ALLOWED_DIRS", f"{open_}:{tmp_path / 'other'}")
    assert resolve_path(f"{open_}/a.jsonl") == open_ / "a.jsonl"
    assert resolve_path("assets/micro/a.jsonl").name == "a.jsonl"  # the checkout itself
    places = (closed / "a.jsonl", open_ / "link.jsonl", open_ / "../closed/a.jsonl")
    for path in (*places, "~/a.jsonl", "../a.jsonl", ".run/airflow/a.json", ".dvc/a.json"):
        with pytest.raises(DataError, match="R1_ALLOWED_DIRS"):
            resolve_path(str(path))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"/no/such\.jsonl: no such file"):
        load_problems(SourceSpec(kind="files", options={"path": "/no/such.jsonl", "layout": "gsm8k"}), seed=1)


def test_the_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    options = {"dataset": "openai/gsm8k", "file": "main/test.parquet", "revision": "main", "layout": "gsm8k"}
    with pytest.raises(StorageError, match=r"hub dataset openai/gsm8k, main/test.parquet at main") as caught:
        load_problems(SourceSpec(kind="hub", options=options), seed=1)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_reasoning_gym_makes_judgeable_problems() -> None:
    spec = SourceSpec(
        kind="reasoning_gym", options={"task": "chain_sum", "n": 20, "config": {"max_terms": 4}}
    )
    problems = load_problems(spec, seed=3)
    assert problems == load_problems(spec, seed=3) != load_problems(spec, seed=4)
    assert {problem.domain for problem in problems} == {Domain.MATH}
    text = load_problems(SourceSpec(kind="reasoning_gym", options={"task": "caesar_cipher", "n": 3}), seed=3)
    assert {problem.domain for problem in text} == {Domain.GENERAL}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "countdown", "n": 2}, "accepts more than one answer"),
        ({"task": "chain_sun", "n": 2}, "no such task; it has .*chain_sum"),
        (
            {"task": "chain_sum", "n": 2, "config": {"min_terms": 9, "max_terms": 2}},
            "config.*chain_sum refuses it",
        ),
    ],
)
def test_reasoning_gym_refuses_what_it_cannot_judge(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_problems(SourceSpec(kind="reasoning_gym", options=options), seed=1)
