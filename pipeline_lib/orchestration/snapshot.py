"""A run's state as a commit that another machine can fetch, made without touching the run's branch, index or files.

The commit is the worktree's HEAD with params.yaml and dvc.lock as they are now: what a stage needs to find its inputs by hash. It is
pushed as `refs/r1/<run>/<stage>`. Author and time are fixed, so the same state is the same commit.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.errors import ConfigError, StorageError

FILES = ("params.yaml", "dvc.lock")
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "deepseek_r1 pipeline"),
        ("EMAIL", "pipeline@localhost"),
        ("DATE", "2000-01-01T00:00:00Z"),
    )
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A commit that a node can fetch."""

    url: str
    ref: str
    commit: str


def publish_snapshot(worktree: Path, run: str, address: str, remote: str = "origin") -> Snapshot:
    """Commit the worktree's state beside its branch and push it to the git remote (a name or a URL).

    Raises:
        ConfigError: The worktree has no such git remote.
        StorageError: git refused; the message is git's own.
    """
    with tempfile.TemporaryDirectory(prefix="r1-index-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(worktree, "read-tree", "HEAD", env=index)
        present = [name for name in FILES if (worktree / name).is_file()]
        _git(worktree, "update-index", "--add", "--", *present, env=index)
        tree = _git(worktree, "write-tree", env=index)
    message = f"{run}: what {address} starts from"
    commit = _git(worktree, "commit-tree", tree, "-p", "HEAD", "-m", message, env=_IDENTITY)
    ref = f"refs/r1/{_component(run)}/{_component(address)}"
    url = _url(worktree, remote)
    _git(worktree, "push", "--quiet", "--force", "--", url, f"{commit}:{ref}")
    return Snapshot(url, ref, commit)


def _component(name: str) -> str:
    """A part of a ref's name: `@` and other letters that git refuses there become `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


def _url(worktree: Path, remote: str) -> str:
    if "/" in remote or ":" in remote:
        return remote
    try:
        return _git(worktree, "remote", "get-url", "--", remote)
    except StorageError:
        raise ConfigError(
            "git", remote, "is no git remote of this checkout; give a URL that the node reaches"
        ) from None


def _git(where: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=where,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StorageError(f"git {arguments[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout.strip()
