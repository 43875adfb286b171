"""A job of one rank, for the launchers."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.launch.job import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Its folder, which is there, is that of a first try."""
    folder = tmp_path / "train_r1_zero-0123456789abcdef"
    folder.mkdir()
    return Job(
        name="train_r1_zero",
        root=tmp_path,
        folder=folder,
        module="m",
        nodes=1,
        ranks_per_node=1,
        gpus_per_node=0,
        threads=1,
        time_limit_minutes=0,
        grace_seconds=0,
        settings={"partition": "", "account": "", "options": []},
    )
