"""A rank that stands still: for a while, which costs time only, and for ever, which ends the job with its name."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.faults.jobs import outputs
from tests.faults.launched import beat, end, processes_in, start, wait_for_checkpoint, world_with
from tests.unit.training.tiny import grpo_spec

PATIENCE = 30.0
PAUSE = 3.0
SPEC = grpo_spec(steps=60, kl_coef=0.01, engine={"world_size": 2})

pytestmark = pytest.mark.slow


def test_a_paused_rank_is_waited_for_and_a_stopped_one_ends_the_job_with_its_name(tmp_path: Path) -> None:
    whole, disturbed = world_with(tmp_path / "whole", SPEC), world_with(tmp_path / "disturbed", SPEC)
    assert end(start(whole)) == (0, "")

    process = start(disturbed, R1_RANK_TIMEOUT_SECONDS=str(PATIENCE))
    wait_for_checkpoint(disturbed, process, 2)
    _, pid = beat(disturbed, 1)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(PAUSE / 2)
    reached = beat(disturbed, 0)[0]
    time.sleep(PAUSE / 2)
    assert beat(disturbed, 0)[0] == reached < SPEC.section["steps"], "rank 0 waits for the one that is paused"
    os.kill(pid, signal.SIGCONT)
    wait_for_checkpoint(disturbed, process, 2 * (reached // 2 + 2))

    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    code, said = end(process)
    assert code == 1, said  # neither 2 nor 3: it is retried
    assert time.monotonic() - stopped < PATIENCE + 60
    (line,) = said.splitlines()
    assert re.fullmatch(
        rf"STAGE: train_r1_zero: rank 1 \(pid {pid} on \S+\) has stood still for {PATIENCE:.0f} s; steps finished by rank: 0: \d+, 1: \d+\. .*",
        line,
    ), line
    assert processes_in(disturbed) == []

    assert end(start(disturbed)) == (0, "")
    assert outputs(disturbed, SPEC) == outputs(whole, SPEC)
