"""The guard: a server's whole process tree ends with its trainer, however that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SERVER = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "open(sys.argv[1] + '/up', 'w').close(); time.sleep(600)"
)
TRAINER = """
import json, os, subprocess, sys, time
told = json.loads(sys.argv[1]) | {"parent": os.getpid()}
guard = subprocess.Popen([sys.executable, "-m", "pipeline_lib.rollout.servers.guard"], stdin=subprocess.PIPE, start_new_session=True)
guard.stdin.write(json.dumps(told).encode())
guard.stdin.close()
print(guard.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def tree(tmp_path: Path):
    """(trainer, guard, everything below the guard, the guard's folder)."""
    told = {
        "files": {"config.json": "{}"},
        "command": [sys.executable, "-c", SERVER, "{model}"],
        "environment": {},
        "cores": [min(os.sched_getaffinity(0))],
    }
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, json.dumps(told)], stdout=subprocess.PIPE, env=env, text=True
    )
    assert trainer.stdout is not None
    guard = psutil.Process(int(trainer.stdout.readline()))
    _until(lambda: list(tmp_path.glob("rollout-server-*/up")))
    below = guard.children(recursive=True)
    assert len(below) == 2
    assert below[0].cpu_affinity() == told["cores"]
    yield trainer, guard, below, tmp_path
    for process in (trainer, guard, *below):
        try:
            psutil.Process(process.pid).kill()
        except psutil.NoSuchProcess:
            continue
    trainer.wait()
    trainer.stdout.close()


def _until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _gone(processes) -> bool:
    return not any(map(_lives, processes))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two
        return False


def test_a_trainer_killed_takes_its_server_along(tree) -> None:
    trainer, guard, below, folder = tree
    trainer.kill()
    trainer.wait()
    _until(lambda: _gone([guard, *below]))
    assert not list(folder.iterdir())


def test_sigterm_ends_the_server(tree) -> None:
    _, guard, below, folder = tree
    guard.send_signal(signal.SIGTERM)
    _until(lambda: _gone([guard, *below]))
    assert not list(folder.iterdir())


def test_a_server_that_dies_leaves_nothing_of_itself(tree) -> None:
    _, guard, below, folder = tree
    below[0].kill()
    _until(lambda: _gone([guard, *below]))
    assert not list(folder.iterdir())


def test_a_guard_killed_takes_the_server_along(tree) -> None:
    _, guard, below, _ = tree
    guard.kill()
    _until(lambda: _gone([below[0]]))
