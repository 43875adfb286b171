"""What sbatch refuses, in Slurm's own words, from commands of the test's own; a real Slurm is in tests/integration/test_slurm.py."""

from __future__ import annotations

import os

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.launch.base import NotAnswering
from pipeline_lib.launch.slurm import SlurmLauncher

POLICY = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
FAILED = "sbatch: error: Batch job submission failed: "


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Makes an sbatch of a shell script; the queue is empty."""

    def make(script: str) -> None:
        for name, text in (("squeue", ""), ("sbatch", script)):
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


@pytest.mark.parametrize(
    "said",
    [
        f"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}Resource temporarily unavailable",
        f"sbatch: error: Slurm job queue full, sleeping and retrying\n{FAILED}Unable to create job record, try again",
        f"sbatch: Job creation temporarily disabled, retrying\n{FAILED}Requested nodes are busy",
        f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}",
        f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}",
        f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}",
        f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY}",
        f"sbatch: error: MaxSubmitJobsPerAccount\n{POLICY}",
    ],
)
def test_a_queue_that_is_full_may_be_tried_again(job, sbatch, said):
    sbatch(f"cat >&2 <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(NotAnswering, match="Slurm takes no more jobs now: sbatch: "):
        SlurmLauncher().submit(job)


@pytest.mark.parametrize(
    "said",
    [
        POLICY,
        f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}",
        f"{FAILED}Invalid account or account/partition combination specified",
        "sbatch: error: name your account and try again",
    ],
)
def test_what_a_person_has_to_change_may_not(job, sbatch, said):
    sbatch(f"cat >&2 <<'END'\n{said}\nEND\nexit 1")
    with pytest.raises(ConfigError, match=r"engine\.slurm"):
        SlurmLauncher().submit(job)


def test_an_sbatch_that_was_killed_may_be_tried_again(job, sbatch):
    sbatch("kill -9 $$")
    with pytest.raises(NotAnswering, match="sbatch ended with -9"):
        SlurmLauncher().submit(job)


def test_sbatch_is_out_of_reach_of_a_signal_to_the_stage_s_session(job, sbatch):
    sbatch("cut -d ' ' -f 6 /proc/self/stat")
    assert SlurmLauncher().submit(job).id != str(os.getsid(0))
