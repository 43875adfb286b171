"""`make secrets` finds a key that somebody commits: the project's own recipe, run in a git repository made for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Put together here, so that the scan of this repository has nothing to say of this file.
AWS_KEY = "AKIA" + "Q3ZDRT7WPLNX5YHB"
PRIVATE_KEY = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n"
PLANTED = {
    "an AWS key in code": ("tasks/upload.py", f'KEY = "{AWS_KEY}"\n'),
    "an AWS key in a parameter file": ("params.yaml", f"store:\n  key: {AWS_KEY}\n"),
    "a private key": ("infra/server.pem", PRIVATE_KEY),
    "a password in an address": ("infra/x.env", "URI=postgresql://someone:" + "Tr0ub4dor3@db/mlflow\n"),
    "a file with a blank in its name": ("docs/a note.md", f"{AWS_KEY}\n"),
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What the recipe reads (the Makefile and its Python), and a file that git knows and that is clean."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / "clean.py").write_text("password = input()\n")
    subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
    return tmp_path


def _make_secrets(repository: Path) -> subprocess.CompletedProcess[str]:
    # `-o setup`: the environment is there. The recipe is the Makefile's, not a copy.
    return subprocess.run(
        ["make", "secrets", "-o", "setup", f"PY={sys.executable}"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _plant(repository: Path, name: str, content: str) -> None:
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    subprocess.run(["git", "add", "-A"], cwd=repository, check=True)


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_key_fails_the_scan(repository: Path, case: str) -> None:
    name, content = PLANTED[case]
    _plant(repository, name, content)
    done = _make_secrets(repository)
    assert done.returncode != 0
    assert f"Location:    {name}:" in done.stdout + done.stderr
    assert "clean.py" not in done.stdout + done.stderr
    assert content.strip() not in done.stdout + done.stderr


def test_a_clean_repository_passes(repository: Path) -> None:
    done = _make_secrets(repository)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_and_every_check_run_the_scan() -> None:
    steps = "".join(path.read_text() for path in (ROOT / ".ci").rglob("*") if path.is_file())
    check = subprocess.run(
        ["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "make check" in steps
    assert "detect_secrets" in check.stdout
