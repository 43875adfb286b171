"""What a parameter may name where others may trigger runs: directories (`R1_ALLOWED_DIRS`), servers (`R1_ROLLOUT_SERVERS`).

Who triggers a run names files by path (a source of problems, a base model), and the stage reads them with the rights of the worker; in
`engine.servers.weights_dir` it also writes and removes files. A run that comes through Airflow is held: it reads the checkout, `R1_DATA_DIR` and what
`R1_ALLOWED_DIRS` lists (directories, separated by `:`), it writes in its own worktree and what that lists, never below a hidden directory of these
(Airflow's and DVC's settings are there); links are followed first. A plain `dvc repro` is held where whoever runs it sets the variable: on one's own
machine any path may be named. docs/decisions/0019 says why it is a setting of the worker's environment and no parameter.

Rollout servers are sent weights and `VLLM_API_KEY`: where a run is held, they must be listed too (`host:port`, separated by `,`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.tracking.locations import main_checkout

ALLOWED = "R1_ALLOWED_DIRS"
SERVERS = "R1_ROLLOUT_SERVERS"
DATA = "R1_DATA_DIR"


def of_a_run(worktree: Path) -> str:
    """What `R1_ALLOWED_DIRS` is for the stages of a run that comes through Airflow: its worktree and what the worker's own lists."""
    return os.pathsep.join(dict.fromkeys([str(worktree), *_listed()]))


def require_allowed(path: Path, root: Path | None = None, *, held: bool = False) -> Path:
    """Return `path` if a parameter may name it to be read.

    Args:
        path: What is to be read.
        root: A checkout (default: where we are).
        held: True for whoever asks on behalf of a run that comes through Airflow, where `of_a_run` is not in the environment.

    Raises DataError otherwise, before anything opens the path.
    """
    if "\0" in str(path):
        raise DataError(f"{str(path)!r}: a path holds no NUL character. Correct the path.")
    listed = _listed()
    if not (listed or held):
        return path
    ours: list[str | Path] = [main_checkout(root), *([os.environ[DATA]] if os.environ.get(DATA) else [])]
    if not _inside(path, [*ours, *listed]):
        remedy = f"Move it below one of {ALLOWED} ({', '.join(listed) or 'none is listed'})"
        raise DataError(f"{path}: outside the directories that parameters may name here. {remedy}.")
    return path


def require_weights_dir(text: str, worktree: Path, *, held: bool = False) -> Path:
    """Return `engine.servers.weights_dir` if a job may write and remove files there; `held` as above.

    Raises ConfigError otherwise. A directory of the checkout is not enough: other runs have their worktrees there.
    """
    listed = _listed()
    path = worktree / text
    if (listed or held) and ("\0" in text or not _inside(path, [worktree, *listed])):
        raise ConfigError(
            "engine.servers.weights_dir",
            text,
            f"is neither in the run's worktree nor in a directory that parameters may name here; whoever runs this worker lists it in {ALLOWED}",
        )
    return path


def require_allowed_servers(addresses: Sequence[str], *, held: bool = False) -> None:
    """Raise ConfigError for one that a parameter may not name here; `held` as above."""
    if not (_listed() or held):
        return
    listed = [part.strip() for part in os.environ.get(SERVERS, "").split(",") if part.strip()]
    for address in addresses:
        if address not in listed:
            raise ConfigError(
                "engine.servers.addresses",
                address,
                f"is not a server that parameters may name here; whoever runs this worker lists it in {SERVERS}",
            )


def _listed() -> list[str]:
    return [part for part in os.environ.get(ALLOWED, "").split(os.pathsep) if part]


def _inside(path: Path, directories: Sequence[str | Path]) -> bool:
    """True where it lies in one of them, and below no hidden directory of that one."""
    real = Path(os.path.realpath(path))
    for directory in directories:
        top = os.path.realpath(directory)
        if real.is_relative_to(top) and not any(p.startswith(".") for p in real.relative_to(top).parts):
            return True
    return False
