"""The whole graph with a small budget: through `dvc repro`, and through Airflow's real scheduler.

Both start from a fresh clone of the last commit (uncommitted edits are not tested) that shares this checkout's .venv.
The second run gets another seed, so that nothing is restored from the first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
ROOT = Path(__file__).resolve().parents[2]
STAGE_MODELS = {
    "base",
    "r1_zero",
    "cold_start",
    "reasoning_rl",
    "general_sft",
    "r1",
    "student_rl",
    "qwen-xs",
    "llama-xs",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    path = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(path)], check=True)
    (path / ".venv").symlink_to(ROOT / ".venv")
    return path


def run(clone: Path, *command: str, timeout: float = 2000) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    for name in ("MLFLOW_TRACKING_URI", "R1_PIPELINE_RUN"):
        env.pop(name, None)
    done = subprocess.run(
        command, cwd=clone, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    print(done.stdout[-4000:], done.stderr[-8000:])
    return done


def check_reports(root: Path) -> None:
    assert {p.stem for p in (root / "reports/evaluation").glob("*.json")} == STAGE_MODELS
    assert (root / "reports/report.html").stat().st_size > 10_000
    registered = json.loads((root / "reports/registered.json").read_text(encoding="utf-8"))
    assert json.dumps(registered).count("r1_zero")
    for gate in (
        "validate_problems",
        "validate_cold_start",
        "validate_rejections",
        "validate_preferences",
        "validate_distillation",
    ):
        assert (root / f"reports/gates/{gate}.json").is_file()


def test_dvc_repro_alone_then_nothing_to_do(clone: Path) -> None:
    assert run(clone, sys.executable, "-m", "tasks.configure", "--profile", "smoke").returncode == 0
    assert run(clone, "dvc", "repro").returncode == 0
    check_reports(clone)
    started = time.monotonic()
    again = run(clone, "dvc", "repro")
    assert again.returncode == 0
    assert "Data and pipelines are up to date." in again.stdout
    assert "Running stage" not in again.stdout
    assert (
        time.monotonic() - started < 20
    )  # the issue asks for 10 s on an idle machine; the test machine runs other things
    metrics = run(clone, "dvc", "metrics", "show", "--json")
    assert metrics.returncode == 0
    assert "train_r1_zero" in metrics.stdout
    assert run(clone, "dvc", "plots", "show", "--json").returncode == 0


def locked(root: Path) -> dict[str, object]:
    """dvc.lock without its order; the frozen stage, whose files git holds, is no task of the DAG."""
    stages = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return {name: body for name, body in stages.items() if name != "pretrain_micro_base"}


@pytest.fixture
def stopped_afterwards(clone: Path) -> Iterator[Path]:
    yield clone
    run(clone, sys.executable, "-m", "pipeline_lib.services", "down", timeout=120)


def test_airflow_runs_the_graph_and_the_main_checkout_has_nothing_left_to_compute(
    stopped_afterwards: Path,
) -> None:
    clone = stopped_afterwards
    assert (
        run(
            clone, sys.executable, "-m", "tasks.configure", "--profile", "smoke", "--set", "run.seed=11"
        ).returncode
        == 0
    )
    run(
        clone,
        "git",
        "-c",
        "user.name=ci",
        "-c",
        "user.email=ci@localhost",
        "commit",
        "-qam",
        "small budget, another seed",
    )
    demo = run(
        clone,
        sys.executable,
        "-m",
        "pipeline_lib.services",
        "demo",
        "--profile",
        "smoke",
        "--set",
        "run.seed=11",
    )
    assert demo.returncode == 0
    assert "r1_zero" in demo.stdout
    worktree = next(p for p in (clone / "runs").iterdir() if p.is_dir())
    check_reports(worktree)
    branches = run(clone, "git", "branch", "--list", "run/*").stdout
    assert worktree.name in branches
    mine = run(clone, "dvc", "repro")
    assert mine.returncode == 0
    assert "Running stage" not in mine.stdout, "the Airflow run had computed everything"
    check_reports(clone)
    assert locked(clone) == locked(worktree)
