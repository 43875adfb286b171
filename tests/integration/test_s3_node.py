"""A node with nothing but the image, git and S3: two clones that share no disk, a real training job moved from one to the other.

Not covered: a container image (the node's interpreter is this one), git over a network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.orchestration.runner import StageRun
from pipeline_lib.orchestration.snapshot import Snapshot, publish_snapshot
from pipeline_lib.tracking.outputs import locked_stages
from tests.integration.cluster.launched import training_stage
from tests.power import cut_power
from tests.seaweed import BUCKET, SECRET, Seaweed, seaweed
from tests.small_project import build, content, git
from tests.unit.training.tiny import grpo_spec

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = PROJECT / "tasks" / "run_on_node.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed")) as running:
        yield running


def _with_code(root: Path) -> Path:
    """The project's code in the repository, as a checkout of the project has it, and a git server's side of it."""
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("pipeline_lib", "tasks"):
        shutil.copytree(PROJECT / name, root / name, ignore=skip)
    (root / ".dvcignore").write_text("__pycache__/\n*.pyc\n/checkpoints/\n/.run/\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "code")
    bare = root.parent / "origin.git"
    git(root, "init", "--quiet", "--bare", str(bare))
    git(root, "remote", "add", "origin", f"file://{bare}")
    return root


def _node(env: dict[str, str], url: str, ref: str, stage: str, folder: Path) -> subprocess.Popen[str]:
    """Start the node's program as a node does: the file alone, from standard input, far away from any checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-", "--git", url, "--revision", ref, "--folder", str(folder / "r1"), stage]
    keep = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    with PROGRAM.open() as program:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**keep, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **env},
            stdin=program,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _checkout(folder: Path) -> Path:
    (found,) = (folder / "r1" / "checkouts").iterdir()
    return found


def test_a_node_runs_a_stage_and_the_orchestrator_restores_it(server: Seaweed, tmp_path: Path) -> None:
    env = {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/stage"}
    root = _with_code(build(tmp_path / "root"))
    StageRun(root, "prepare", {**env, "R1_PIPELINE_RUN": "one"}).wait(print)
    before = (git(root, "rev-parse", "HEAD"), git(root, "status", "--porcelain"), git(root, "branch", "-a"))
    snapshot = publish_snapshot(root, "one", "train@a")
    assert (
        git(root, "rev-parse", "HEAD"),
        git(root, "status", "--porcelain"),
        git(root, "branch", "-a"),
    ) == before
    assert publish_snapshot(root, "one", "train@a") == snapshot
    assert git(root, "show", f"{snapshot.commit}:dvc.lock") == (root / "dvc.lock").read_text().strip()

    node = _node(env, snapshot.url, snapshot.ref, "train@a", tmp_path / "node")
    said, _ = node.communicate(timeout=300)
    assert node.returncode == 0, said
    assert SECRET not in said
    there = _checkout(tmp_path / "node")
    assert not (there / ".dvc" / "cache").exists()
    lines: list[str] = []
    result = StageRun(root, "train@a", {**env, "R1_PIPELINE_RUN": "one"}).wait(lines.append)
    assert result.how is How.RESTORED
    assert "train ran" in said
    assert "train ran" not in lines
    assert locked_stages(root)["train@a"] == locked_stages(there)["train@a"]
    folders = ("data", "models", "reports")
    assert content(root, *folders) == content(there, *folders)
    assert "stage/logs/one/train@a/attempt-1/stage.log" in server.keys("stage/logs/")


def test_a_nodes_exit_code_is_the_stages_own(server: Seaweed, tmp_path: Path) -> None:
    env = {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/code"}
    root = build(tmp_path / "root")
    (root / "train.py").write_text(
        "import json, os, pathlib, sys\n"
        "pathlib.Path(os.environ['R1_EXIT_FILE']).write_text(json.dumps({'exit_code': 3, 'error': 'row 7 is bad'}))\n"
        "sys.exit(3)\n"
    )
    root = _with_code(root)
    StageRun(root, "prepare", env).wait(print)
    snapshot = publish_snapshot(root, "one", "train@a")
    node = _node(env, snapshot.url, snapshot.ref, "train@a", tmp_path / "node")
    said, _ = node.communicate(timeout=300)
    assert node.returncode == 3
    assert said.splitlines()[-1] == "train@a: row 7 is bad"

    without = _node(server.environment, snapshot.url, snapshot.ref, "train@a", tmp_path / "node")
    said, _ = without.communicate(timeout=300)
    assert without.returncode == 2
    assert said.startswith("train@a: R1_REMOTE = None: ")
    nowhere = _node(env, snapshot.url, "refs/r1/one/nothing", "train@a", tmp_path / "node")
    said, _ = nowhere.communicate(timeout=300)
    assert nowhere.returncode == 2
    assert "couldn't find remote ref" in said
    assert len(said.splitlines()) == 1


OUTS = ("models/r1_zero", "plot.csv", "rollouts.parquet")


def _training_project(tmp_path: Path, hold: Path | None = None) -> Path:
    """A project whose stage is a real training job of 40 steps with a checkpoint at every second one."""
    spec = grpo_spec(steps=40, kl_coef=0.01, checkpoint_every=2)
    root = training_stage(tmp_path / "root", spec, hold, step=20)
    git(root, "add", "--all", "--force", "models", "data")
    root = _with_code(root)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    return root


def _finish_elsewhere(
    server: Seaweed, env: dict[str, str], snapshot: Snapshot, root: Path, folder: Path
) -> str:
    """The stage on a node with an empty disk, and undisturbed on a machine of its own: the same bytes. What the node said."""
    node = _node(env, snapshot.url, snapshot.ref, "train_r1_zero", folder)
    said, _ = node.communicate(timeout=300)
    assert node.returncode == 0, said
    moved = _checkout(folder)
    StageRun(root, "train_r1_zero", {"R1_PIPELINE_RUN": "alone"}).wait(print)
    assert locked_stages(moved)["train_r1_zero"]["outs"] == locked_stages(root)["train_r1_zero"]["outs"]
    for out in OUTS:
        assert content(moved, out) == content(root, out)
    return said


@pytest.mark.timeout(900)
def test_a_preempted_job_goes_on_on_another_node_bit_for_bit(server: Seaweed, tmp_path: Path) -> None:
    """SIGTERM to the first node after a checkpoint; the second has an empty disk; a third machine was never disturbed."""
    env = {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/moved"}
    root = _training_project(tmp_path)
    snapshot = publish_snapshot(root, "two", "train_r1_zero")

    first = _node(env, snapshot.url, snapshot.ref, "train_r1_zero", tmp_path / "first")
    deadline = time.monotonic() + 300
    while not list((tmp_path / "first").glob("r1/checkouts/*/checkpoints/*/step-*/manifest.json")):
        assert first.poll() is None, first.stdout and first.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGTERM)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 75, said
    kept = server.keys("moved/checkpoints/two/")
    assert any(key.endswith("/manifest.json") for key in kept)

    said = _finish_elsewhere(server, env, snapshot, root, tmp_path / "second")
    assert "of another node fetched; going on from it" in said
    assert server.keys("moved/checkpoints/") == {}
    print(f"preempted at {sorted(key.split('/')[4] for key in kept)[-1]} of 40 steps")


@pytest.mark.timeout(900)
def test_a_node_that_vanishes_costs_only_the_work_since_its_last_checkpoint_in_s3(
    server: Seaweed, tmp_path: Path
) -> None:
    """Power off: every process of the node ends at once and its disk is gone. Nobody could send anything any more."""
    env = {**server.environment, "R1_REMOTE": f"s3://{BUCKET}/vanished"}
    hold = tmp_path / "hold"
    hold.touch()
    root = _training_project(tmp_path, hold)
    snapshot = publish_snapshot(root, "three", "train_r1_zero")

    first = _node(env, snapshot.url, snapshot.ref, "train_r1_zero", tmp_path / "first")
    deadline = time.monotonic() + 300
    while not any(
        key.endswith("/step-00000020/manifest.json") for key in server.keys("vanished/checkpoints/three/")
    ):
        assert first.poll() is None, first.stdout and first.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    killed = _power_off(first, tmp_path / "first")
    assert first.returncode == -signal.SIGKILL
    assert {"tasks.run_on_node", "heldjob"} <= killed, "the node's program and its rank were to die"
    shutil.rmtree(tmp_path / "first")
    hold.unlink()

    said = _finish_elsewhere(server, env, snapshot, root, tmp_path / "second")
    assert "step-00000020 of another node fetched; going on from it" in said
    assert server.keys("vanished/checkpoints/") == {}


def _power_off(node: subprocess.Popen[str], folder: Path) -> set[str]:
    """Kill every process that works below `folder`, none of which learns of another's end; the words of their commands."""
    commands = cut_power(lambda process: Path(process.cwd()).is_relative_to(folder))
    node.communicate(timeout=60)
    return {word for command in commands for word in command.split()}
