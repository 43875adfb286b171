"""Names of pipeline runs, the store that worktrees share, and flattened parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.tracking.locations import git_commit, main_checkout, pipeline_run, tracking_uri
from pipeline_lib.tracking.run import flatten


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("R1_PIPELINE_RUN", raising=False)
    root = tmp_path / "main"
    root.mkdir()
    (root / "params.yaml").write_text("run: {seed: 1}\n")
    for command in (
        ["init", "-q"],
        ["config", "user.email", "someone@example.org"],
        ["config", "user.name", "someone"],
        ["add", "params.yaml"],
        ["commit", "-qm", "first"],
        ["worktree", "add", "-q", str(tmp_path / "other")],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def test_worktrees_share_the_main_checkouts_store(repository: Path) -> None:
    other = repository.parent / "other"
    assert main_checkout(other) == main_checkout(repository) == repository
    assert tracking_uri(other) == f"sqlite:///{repository}/.mlflow/mlflow.db"


def test_a_plain_repro_is_named_by_place_and_parameters(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline_run(repository)
    assert first.startswith("repro-")
    assert pipeline_run(repository) == first
    assert pipeline_run(repository.parent / "other") != first
    (repository / "params.yaml").write_text("run: {seed: 2}\n")
    assert pipeline_run(repository) != first
    monkeypatch.setenv("R1_PIPELINE_RUN", "manual__2026")
    assert pipeline_run(repository) == "manual__2026"


@pytest.mark.parametrize(
    "uri",
    [
        "https://someone:hush-9@mlflow.example",  # pragma: allowlist secret (the test's own)
        "HTTP://hush-9@mlflow.example:5000",
        "postgresql://mlflow:hush-9@db/mlflow",  # pragma: allowlist secret (the test's own)
        "postgresql+psycopg2://mlflow:hush-9/x?y#z@db:5432/mlflow",  # pragma: allowlist secret (the test's own)
        "mysql://:hush-9@db/mlflow",  # pragma: allowlist secret (the test's own)
        "postgresql://db/mlflow?user=mlflow&password=hush-9",  # pragma: allowlist secret (the test's own)
    ],
)
def test_a_uri_with_a_password_or_a_token_is_refused_and_not_repeated(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI.*holds a password or token") as caught:
        tracking_uri()
    assert "hush-9" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000",
        "https://mlflow.example/at/a/path",
        "postgresql://mlflow@db:5432/mlflow",
        "postgresql:///mlflow?host=/run/postgresql",
        "sqlite:////data/someone@example.org:1/mlflow.db",
        "databricks://profile",
    ],
)
def test_a_uri_without_a_secret_is_taken(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri() == uri


def test_uncommitted_edits_show_in_the_commit(repository: Path) -> None:
    clean = git_commit(repository)
    assert len(clean) == 40
    (repository / "params.yaml").write_text("run: {seed: 3}\n")
    assert git_commit(repository) == f"{clean}-dirty"


def test_parameters_are_flattened_to_dotted_names() -> None:
    assert flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": "x"}}, "f": None, "g": True}) == {
        "a": "1",
        "b.c": "[1, 2]",
        "b.d.e": "x",
        "f": "null",
        "g": "true",
    }


def test_a_stage_does_not_import_mlflow() -> None:
    code = "import sys, pipeline_lib.tracking as t; assert t.stage_run; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
