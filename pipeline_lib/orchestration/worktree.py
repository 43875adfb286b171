"""A run's own checkout: a git worktree on branch `run/<name>` that shares the DVC cache (decision 0004).

A run starts from a commit plus its form's parameters, so an uncommitted edit never reaches it, and
ends as a commit that holds params.yaml and dvc.lock: `git checkout run/<name> && dvc checkout` is the run.
Concurrent runs never meet; only `git worktree add` itself is done under a lock.
"""

from __future__ import annotations

import configparser
import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError, StorageError
from pipeline_lib.orchestration import form
from pipeline_lib.orchestration.bounds import require_bounded
from pipeline_lib.orchestration.graph import load_yaml
from pipeline_lib.orchestration.remote_settings import add_remote
from pipeline_lib.storage.dvc_cache import cache_dir

_COMMITTER = ("-c", "user.name=deepseek_r1 pipeline", "-c", "user.email=pipeline@localhost")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/~^-]{0,249}")
_LONGEST_NAME = 200
"""Characters of a run's name. It names a file of git's (`<name>.lock`) and directories of ours; 255 is the file system's limit."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run was started with; kept as `.run/run.json` in its worktree."""

    name: str
    commit: str
    profile: str | None
    """None: the commit's own parameters, as a run that continues another one has."""
    overrides: Mapping[str, Any]
    dirty: tuple[str, ...] = ()
    """Paths with uncommitted edits in the main checkout when the run began: they are *not* in the run."""

    @property
    def branch(self) -> str:
        """The branch the run is committed to."""
        return f"run/{self.name}"


def run_name(dag_id: str, run_id: str) -> str:
    """Return a directory and branch name for an Airflow run: letters, digits, `.`, `_`, `-` only."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run_id).strip("-.")
    name = re.sub(r"(\.lock)+$", "", re.sub(r"\.{2,}", ".", name))
    if not name:
        raise ConfigError("run_id", run_id, "needs at least one letter or digit")
    name = name if dag_id == "deepseek_r1" else f"{dag_id}-{name}"
    if len(name) > _LONGEST_NAME:
        raise ConfigError("run_id", f"{run_id[:40]}…", f"is a directory: at most {_LONGEST_NAME} characters")
    return name


def worktree_path(root: Path, name: str) -> Path:
    """Return where run `name` lives below the checkout `root`."""
    return root / "runs" / name


def create_run(
    root: Path, name: str, *, profile: str | None, overrides: Mapping[str, Any], revision: str = "HEAD"
) -> RunRecord:
    """Make the worktree of a run, write its parameters, and return what it starts from.

    Called again for the same run (a cleared or retried task) it finds the worktree and changes nothing.

    Raises:
        ConfigError, DataError: A parameter or the revision is not usable, or is none that a form may set (`bounds`); nothing
            is left behind.
        StorageError: git or the disk refused.
    """
    path = worktree_path(root, name)
    commit = _resolve(root, revision)
    dirty = tuple(_git(root, "status", "--porcelain", "--untracked-files=normal").splitlines())
    record = RunRecord(name, commit, profile, dict(overrides), dirty)
    with _locked(root):
        if (path / ".run" / "run.json").is_file():
            return _same_run(load_record(path), record)
        if path.exists():
            _remove(root, record)  # an attempt that died half-way: it has no run.json yet
        if _git(root, "branch", "--list", record.branch):
            raise ConfigError(
                "run_id", name, f"branch {record.branch} holds an earlier run; choose another run id"
            )
        _git(root, "worktree", "add", "--quiet", "-b", record.branch, str(path), commit)
    try:
        _share_cache(root, path)
        committed = form.committed_params(path, profile)
        form.write_params(path, profile, overrides)
        require_bounded(load_yaml(path / "params.yaml"), committed, path)
        state = path / ".run"
        state.mkdir(exist_ok=True)
        _write_json(state / "run.json", asdict(record))
    except BaseException:
        with _locked(root):
            _remove(root, record)
        raise
    return record


def finish_run(root: Path, name: str, message: str) -> str:
    """Commit params.yaml and dvc.lock of a run on its branch and return the commit; nothing else is added."""
    path = worktree_path(root, name)
    files = [file for file in ("params.yaml", "dvc.lock") if (path / file).is_file()]
    _git(path, "add", "--", *files)
    if _git(path, "diff", "--cached", "--name-only"):
        _git(path, *_COMMITTER, "commit", "--quiet", "--no-verify", "-m", message, "--", *files)
    return _git(path, "rev-parse", "HEAD")


def finished_run(root: Path, revision: str | None) -> str:
    """Return `revision` if its commit holds a dvc.lock; for an empty one, the latest run branch that does.

    Raises ConfigError when there is none: models can only be taken from a run that has ended.
    """
    if revision:
        commit = _resolve(root, revision)
        if not _git(root, "ls-tree", "--name-only", commit, "dvc.lock"):
            raise ConfigError("from_run", revision, "has no dvc.lock: that run has not finished")
        return revision
    branches = _git(
        root, "for-each-ref", "--sort=-committerdate", "--format=%(refname:short)", "refs/heads/run/"
    )
    for branch in branches.splitlines():
        if _git(root, "ls-tree", "--name-only", branch, "dvc.lock"):
            return branch
    raise ConfigError("from_run", revision, "there is no finished run yet; trigger deepseek_r1 first")


def load_record(path: Path) -> RunRecord:
    """Return what the run in worktree `path` was started with."""
    file = path / ".run" / "run.json"
    if not file.is_file():
        raise ConfigError("run", str(path), "has no .run/run.json; the create_run task has not finished")
    fields = json.loads(file.read_text(encoding="utf-8"))
    return RunRecord(**{**fields, "dirty": tuple(fields["dirty"])})


def _same_run(found: RunRecord, asked: RunRecord) -> RunRecord:
    if (found.profile, dict(found.overrides)) != (asked.profile, dict(asked.overrides)):
        raise ConfigError(
            "run_id", asked.name, "a run of this name exists with other parameters; choose another"
        )
    return found


def _resolve(root: Path, revision: str) -> str:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise ConfigError("revision", revision, "must be a branch, a tag or a commit")
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except StorageError:
        raise ConfigError(
            "revision", revision, "git knows no such commit; a run starts from a commit"
        ) from None


def _share_cache(root: Path, path: Path) -> None:
    """Point the worktree's DVC at the main checkout's cache (and run-cache), with its local settings."""
    if not (path / ".dvc").is_dir():
        raise ConfigError(
            "revision", str(path), "this commit has no .dvc directory; run `dvc init` and commit it"
        )
    local = root / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy2(local, path / ".dvc" / "config.local")
    use_cache(path, cache_dir(root))


def use_cache(path: Path, cache: Path) -> None:
    """Make the checkout `path` keep its DVC objects in `cache`, and name R1_REMOTE as its remote, in .dvc/config.local."""
    local = path / ".dvc" / "config.local"
    config = configparser.ConfigParser(interpolation=None)
    config.read(local, encoding="utf-8")
    if not config.has_section("cache"):
        config.add_section("cache")
    config.set("cache", "dir", str(cache))
    add_remote(config)
    with local.open("w", encoding="utf-8") as file:
        config.write(file)


def _remove(root: Path, record: RunRecord) -> None:
    path = worktree_path(root, record.name)
    if path.exists():
        _git(root, "worktree", "remove", "--force", "--force", str(path))
    _git(root, "worktree", "prune")
    if _git(root, "branch", "--list", record.branch):
        _git(root, "branch", "--quiet", "-D", record.branch)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    common = Path(_git(root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    with (common / "run-worktrees.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StorageError(f"git {arguments[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip("\n")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)
