"""Fresh clones of the last commit (uncommitted edits are not tested), each with a cache of its own; only .venv is shared.

The last commit when the tests began: one that is made meanwhile is in no clone.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "R1_TESTED_COMMIT"
"""Environment variable, set by tests/conftest.py: what the clones hold."""


def fresh_clone(path: Path) -> Path:
    """A clone at `path`."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(path)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "-B", "main", os.environ[COMMIT]], cwd=path, check=True)
    (path / ".venv").symlink_to(ROOT / ".venv")
    return path


def clone_environment(clone: Path) -> dict[str, str]:
    """This environment with the clone's code first, and nothing in it that names another run or store."""
    env = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    for name in ("MLFLOW_TRACKING_URI", "R1_PIPELINE_RUN"):
        env.pop(name, None)
    return env


def run(clone: Path, *command: str, timeout: float = 2000) -> subprocess.CompletedProcess[str]:
    """Run a command in the clone and print the end of what it said."""
    done = subprocess.run(
        command,
        cwd=clone,
        env=clone_environment(clone),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    print(done.stdout[-4000:], done.stderr[-8000:])
    return done


def locked(root: Path) -> dict[str, dict[str, Any]]:
    """dvc.lock without its order; the frozen stage, whose files git holds, is no task of the DAG."""
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {name: body for name, body in stages.items() if name != "pretrain_micro_base"}


def differences(ours: Path, theirs: Path) -> list[str]:
    """What the two dvc.lock files do not agree on, in the order of the graph: the first line is where it began."""
    left, right = locked(ours), locked(theirs)
    found = []
    for name in {**right, **left}:
        if not (name in left and name in right):
            found.append(f"{name}: only in {ours if name in left else theirs}")
            continue
        for kind in sorted(left[name].keys() | right[name].keys()):
            mine, other = (_by_path(side[name].get(kind, {})) for side in (left, right))
            found += [
                f"{name} {kind}: {path}: {mine.get(path)} is not {other.get(path)}"
                for path in sorted(mine.keys() | other.keys())
                if mine.get(path) != other.get(path)
            ]
    return found


def _by_path(entries: Any) -> dict[str, Any]:
    """A list of dependencies or outputs by their path; params are by their file already, and a command is one text."""
    if isinstance(entries, str):
        return {"": entries}
    return entries if isinstance(entries, dict) else {entry["path"]: entry for entry in entries}
