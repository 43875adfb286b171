"""A run's own checkout."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.orchestration import worktree
from pipeline_lib.orchestration.worktree import create_run, finish_run, finished_run, load_record, run_name

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fixtures" / "tiny_pipeline"))
from build_tiny import build


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("repo") / "project")


def git(where: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=where, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_run_has_its_own_files_and_the_shared_cache(repo):
    record = create_run(repo, "one", profile="micro", overrides={"run.seed": 5})
    path = worktree.worktree_path(repo, "one")
    assert record.commit == git(repo, "rev-parse", "HEAD")
    assert load_record(path) == record
    assert git(path, "branch", "--show-current") == "run/one"
    assert "seed: 5" in (path / "params.yaml").read_text()
    assert git(repo, "status", "--porcelain") == ""
    assert f"dir = {repo / '.dvc' / 'cache'}" in (path / ".dvc" / "config.local").read_text()
    assert git(path, "status", "--porcelain") == "M params.yaml"


def test_creating_it_again_changes_nothing_and_other_parameters_are_refused(repo):
    first = create_run(repo, "twice", profile="micro", overrides={"run.seed": 5})
    assert create_run(repo, "twice", profile="micro", overrides={"run.seed": 5}) == first
    with pytest.raises(ConfigError, match="other parameters"):
        create_run(repo, "twice", profile="micro", overrides={"run.seed": 6})


def test_uncommitted_edits_are_named_and_stay_out(repo):
    edited = repo / "tasks" / "report.py"
    before = edited.read_text()
    edited.write_text(before + "# edited\n")
    try:
        record = create_run(repo, "dirty", profile="micro", overrides={})
    finally:
        edited.write_text(before)
    assert record.dirty == (" M tasks/report.py",)
    assert "# edited" not in (worktree.worktree_path(repo, "dirty") / "tasks/report.py").read_text()


def test_bad_parameters_leave_nothing_behind(repo):
    with pytest.raises(DataError, match="stepz"):
        create_run(repo, "bad", profile="micro", overrides={"train_r1_zero.stepz": 1})
    assert not worktree.worktree_path(repo, "bad").exists()
    assert git(repo, "branch", "--list", "run/bad") == ""


def test_an_attempt_that_died_half_way_is_done_again(repo):
    git(repo, "worktree", "add", "-q", "-b", "run/half", str(repo / "runs" / "half"), "HEAD")
    create_run(repo, "half", profile="micro", overrides={})
    assert load_record(repo / "runs" / "half").name == "half"


@pytest.mark.parametrize("revision", ["--upload-pack=x", "no-such-branch", "HEAD..main", "main;touch x", ""])
def test_a_revision_that_is_none_is_refused(repo, revision):
    with pytest.raises(ConfigError, match="revision"):
        create_run(repo, "revision", profile="micro", overrides={}, revision=revision)


def test_two_at_once_both_succeed(repo):
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(
                lambda n: create_run(repo, f"many-{n}", profile="micro", overrides={"run.seed": n}), range(4)
            )
        )
    assert [m.overrides["run.seed"] for m in made] == [0, 1, 2, 3]


def test_the_end_is_a_commit_of_two_files_and_never_touches_an_earlier_one(repo):
    create_run(repo, "end", profile="micro", overrides={"run.seed": 9})
    path = worktree.worktree_path(repo, "end")
    (path / "dvc.lock").write_text("schema: '2.0'\n")
    (path / "stray.txt").write_text("not part of the run")
    with pytest.raises(ConfigError, match="has not finished"):
        finished_run(repo, "run/end")
    commit = finish_run(repo, "end", "run end")
    assert git(repo, "show", "--name-only", "--format=", commit).split() == ["dvc.lock", "params.yaml"]
    assert finish_run(repo, "end", "run end") == commit
    assert finished_run(repo, "") == finished_run(repo, "run/end") == "run/end"
    git(repo, "worktree", "remove", "--force", str(path))
    with pytest.raises(ConfigError, match="holds an earlier run"):
        create_run(repo, "end", profile="micro", overrides={})
    assert git(repo, "rev-parse", "run/end") == commit


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("manual__2026-11-24T18:01:51.920484+00:00", "manual__2026-11-24T18-01-51.920484-00-00"),
        ("../../etc", "etc"),
        ("a b;c", "a-b-c"),
        ("x.lock", "x"),
        ("a..b", "a.b"),
    ],
)
def test_a_run_id_becomes_a_safe_name(run_id, name):
    assert run_name("deepseek_r1", run_id) == name
    assert run_name("distill", run_id) == f"distill-{name}"
    git(Path.cwd(), "check-ref-format", f"refs/heads/run/{name}")
