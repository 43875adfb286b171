"""What more than one directory of tests needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.clones import fresh_clone, run


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` alone, with no server, ran the smoke profile."""
    clone = fresh_clone(tmp_path_factory.mktemp("repro") / "clone")
    assert run(clone, sys.executable, "-m", "tasks.configure", "--profile", "smoke").returncode == 0
    assert run(clone, "dvc", "repro").returncode == 0
    return clone
