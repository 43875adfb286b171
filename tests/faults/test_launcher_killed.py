"""kill -9 of what is above the ranks: DeepSpeed's runner, its launcher below that, and both together with the stage. The ranks live."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline_lib.launch import lean
from tests.faults.jobs import outputs
from tests.faults.launched import beat, end, pid_of, processes_in, start, wait_for_checkpoint, world_with
from tests.unit.training.tiny import grpo_spec

SPEC = grpo_spec(steps=40, kl_coef=0.01, engine={"world_size": 2})
RUNNER, LAUNCH = "deepspeed.launcher.runner", "deepspeed.launcher.launch"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the job leaves that nobody disturbs."""
    whole = world_with(tmp_path_factory.mktemp("undisturbed") / "whole", SPEC)
    assert end(start(whole)) == (0, "")
    return outputs(whole, SPEC)


def _begun(root: Path) -> subprocess.Popen[str]:
    """A stage in a new world at `root` whose job has written a checkpoint."""
    process = start(world_with(root, SPEC))
    wait_for_checkpoint(root, process, 2)
    return process


def _goes_on(root: Path, process: subprocess.Popen[str]) -> None:
    """Return when the ranks have written a checkpoint that they began after now."""
    wait_for_checkpoint(root, process, 2 * (beat(root, 0)[0] // 2 + 2))


def _above(rank: int) -> dict[str, int]:
    """The module of each process above a rank -> its pid."""
    found = {}
    for parent in psutil.Process(rank).parents():
        words = parent.cmdline()
        found |= {module: parent.pid for module in (RUNNER, LAUNCH) if {module, lean.__name__} <= set(words)}
    assert set(found) == {RUNNER, LAUNCH}, "DeepSpeed's own, started lean"
    return found


@pytest.mark.parametrize("victim", [RUNNER, LAUNCH])
def test_a_launcher_that_is_killed_costs_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes], victim: str
) -> None:
    """The stage waits for the ranks, which go on to their end."""
    root = tmp_path / "world"
    process = _begun(root)
    ranks = [pid_of(root, rank) for rank in range(2)]
    os.kill(_above(ranks[0])[victim], signal.SIGKILL)
    _goes_on(root, process)
    assert [pid_of(root, rank) for rank in range(2)] == ranks
    assert end(process) == (0, "")
    assert processes_in(root) == []
    assert outputs(root, SPEC) == undisturbed


def test_the_retry_finds_ranks_that_lost_their_launcher_and_their_stage(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """Nothing holds the job's lock any more. A second copy would write into the same checkpoints."""
    root = tmp_path / "world"
    process = _begun(root)
    above = _above(pid_of(root, 0))
    victims = [psutil.Process(pid) for pid in (above[RUNNER], above[LAUNCH])]
    for victim in (psutil.Process(process.pid), *victims):
        victim.kill()
    process.communicate()
    assert psutil.wait_procs(victims, timeout=30)[1] == []
    again = start(root)
    while again.poll() is None:
        launchers = [line for line in processes_in(root) if RUNNER in line]
        assert launchers == [], "a second copy is started"
        time.sleep(0.1)
    assert end(again) == (0, "")
    assert processes_in(root) == []
    assert outputs(root, SPEC) == undisturbed


def test_ranks_without_a_launcher_are_still_stopped_in_order(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """SIGTERM to the stage reaches them; the retry goes on from their checkpoint."""
    root = tmp_path / "world"
    process = _begun(root)
    for pid in _above(pid_of(root, 0)).values():
        os.kill(pid, signal.SIGKILL)
    _goes_on(root, process)
    process.terminate()
    code, said = end(process)
    assert code == 75, said
    assert processes_in(root) == []
    assert end(start(root)) == (0, "")
    assert outputs(root, SPEC) == undisturbed
