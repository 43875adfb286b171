"""Fresh clones of the last commit (uncommitted edits are not tested), each with a cache of its own; only .venv is shared."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def fresh_clone(path: Path) -> Path:
    """A clone at `path`."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(path)], check=True)
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


def locked(root: Path) -> dict[str, dict[str, object]]:
    """dvc.lock without its order; the frozen stage, whose files git holds, is no task of the DAG."""
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {name: body for name, body in stages.items() if name != "pretrain_micro_base"}
