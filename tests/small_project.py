"""A git repository with a pipeline of two stages that take no time, for tests of what happens around a stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DVC_YAML = """
stages:
  prepare:
    cmd: python prepare.py
    deps: [prepare.py]
    params: [p]
    outs: [data/problems]
  train:
    matrix: {model: [a, b]}
    cmd: python train.py ${item.model}
    deps: [train.py, data/problems]
    params: [p.seed]
    outs: ['models/${item.model}']
    metrics: [{'reports/${item.model}.json': {cache: false}}]
"""
PREPARE = """
import pathlib, random, yaml
p = yaml.safe_load(open("params.yaml"))["p"]
folder = pathlib.Path("data/problems/deep")
folder.mkdir(parents=True)
draw = random.Random(p["seed"])
(folder / "train.bin").write_bytes(draw.randbytes(p["bytes"]))
(folder.parent / "test.txt").write_text("2 + 2\\n")
print("prepare ran", flush=True)
"""
TRAIN = """
import hashlib, json, os, pathlib, sys
model = sys.argv[1]
if pathlib.Path("fail").exists():
    code = int(pathlib.Path("fail").read_text())
    print("secret of mine:", os.environ.get("AWS_SECRET_ACCESS_KEY"), flush=True)
    pathlib.Path(os.environ["R1_EXIT_FILE"]).write_text(json.dumps({"exit_code": code, "error": "row 7 is bad"}))
    sys.exit(code)
content = pathlib.Path("data/problems/deep/train.bin").read_bytes()
pathlib.Path("models", model).mkdir(parents=True)
pathlib.Path("models", model, "weights").write_text(model + hashlib.sha256(content).hexdigest())
pathlib.Path("reports").mkdir(exist_ok=True)
pathlib.Path("reports", model + ".json").write_text(json.dumps({"size": len(content)}))
print("train ran", flush=True)
"""
_ME = ("-c", "user.name=test", "-c", "user.email=test@localhost")


def git(where: Path, *arguments: str) -> str:
    """Run git and return what it says."""
    return subprocess.run(
        ["git", *_ME, *arguments], cwd=where, check=True, capture_output=True, text=True
    ).stdout.strip()


def build(root: Path, *, size: int = 100_000) -> Path:
    """The repository at `root` with one commit on `main`."""
    root.mkdir()
    git(root, "init", "--quiet", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text(f"p: {{seed: 7, bytes: {size}}}\n")
    (root / "prepare.py").write_text(PREPARE)
    (root / "train.py").write_text(TRAIN)
    (root / ".gitignore").write_text("/checkpoints/\n/data/\n/models/\n/reports/\n/.run/\n/fail\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "-m", "small project")
    return root


def clone(source: Path, target: Path) -> Path:
    """Another machine: a clone with a cache of its own, which is empty."""
    git(source, "clone", "--quiet", str(source), str(target))
    return target


def content(root: Path, *paths: str) -> dict[str, bytes]:
    """Path -> bytes of files of a checkout, and of those below its folders."""
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for path in paths
        for file in sorted([root / path, *(root / path).rglob("*")])
        if file.is_file()
    }
