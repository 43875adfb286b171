"""Where tracking keeps things: the MLflow store, its artifacts, the journals, and what names a pipeline run.

Every git worktree of a repository shares one store, `<main checkout>/.mlflow`, so that runs made in different
worktrees are seen side by side. Journals and links belong to one worktree: `.run/mlflow` in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

from pipeline_lib.errors import ConfigError

EXPERIMENT = "deepseek_r1"
PIPELINE_RUN_ENV = "R1_PIPELINE_RUN"
"""Set by Airflow to its run id; a plain `dvc repro` derives one."""
_LOGIN = re.compile(r"[\w.+-]+://[^:/@?#]*(?P<password>:[^@]*)?@")
"""The user and password of a URI, as SQLAlchemy reads them: a password may hold any character but `@`."""


def main_checkout(root: Path | None = None) -> Path:
    """Return the main checkout of the repository that `root` (default: cwd) is a worktree of.

    Outside a git repository it is `root` itself.
    """
    root = (root or Path.cwd()).resolve()
    common = _git(root, "rev-parse", "--path-format=absolute", "--git-common-dir")
    return Path(common).parent if common else root


def tracking_uri(root: Path | None = None) -> str:
    """Return MLFLOW_TRACKING_URI, or the SQLite file all worktrees share.

    Raises ConfigError for one with a password in it, or a server's with a user (a token may stand there): journals, links and
    warnings hold the URI.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if not named:
        return f"sqlite:///{store_dir(root) / 'mlflow.db'}"
    login = _LOGIN.match(named)
    if named.lower().startswith(("http://", "https://")):
        if login is not None:
            raise _secret(
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, instead"
            )
    elif (login is not None and login["password"] is not None) or "password=" in named.partition("?")[2]:
        raise _secret("leave it to the database's driver (PostgreSQL: PGPASSFILE), or name an MLflow server")
    return named


def _secret(remedy: str) -> ConfigError:
    return ConfigError("MLFLOW_TRACKING_URI", "(not shown)", f"holds a password or token; {remedy}")


def store_dir(root: Path | None = None) -> Path:
    """Directory of the local store: mlflow.db, artifacts/ and index/."""
    return main_checkout(root) / ".mlflow"


def artifact_root(root: Path | None = None) -> str:
    """Where artifacts go, as a URI: R1_MLFLOW_ARTIFACTS (for example s3://bucket/mlflow), or the local store.

    It is fixed when the experiment is created, so that a stage that talks to the database and one that talks
    to a server on the same machine find each other's artifacts.
    """
    return os.environ.get("R1_MLFLOW_ARTIFACTS") or (store_dir(root) / "artifacts").as_uri()


def journal_dir(root: Path | None = None) -> Path:
    """Directory of this worktree's journals and `<stage>[@item].json` links."""
    return (root or Path.cwd()).resolve() / ".run" / "mlflow"


def link_name(stage: str, item: str | None) -> str:
    """Return the name DVC, Airflow and MLflow know the stage by: `stage` or `stage@item`."""
    return stage if item is None else f"{stage}@{item}"


def pipeline_run(root: Path | None = None) -> str:
    """Return the name of the pipeline run that work in `root` belongs to.

    From Airflow it is R1_PIPELINE_RUN. A plain `dvc repro` gets `repro-<hash of worktree path and params.yaml>`:
    the same edit repeated in the same place is the same run, and another one is another.
    """
    named = os.environ.get(PIPELINE_RUN_ENV)
    if named:
        return named
    root = (root or Path.cwd()).resolve()
    params = root / "params.yaml"
    content = params.read_bytes() if params.is_file() else b""
    return "repro-" + hashlib.sha256(str(root).encode() + b"\0" + content).hexdigest()[:10]


def git_commit(root: Path | None = None) -> str:
    """Return HEAD's commit, with `-dirty` when tracked files were edited; empty outside a repository."""
    root = (root or Path.cwd()).resolve()
    commit = _git(root, "rev-parse", "HEAD")
    if commit and _git(root, "status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    return commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""
