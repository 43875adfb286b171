"""The first process of a container, with real ranks: addresses, signals, the first bad end, two places for the log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RANK = """
import os, signal, sys, time
rank, behaviour = os.environ["RANK"], sys.argv[-1].rpartition("/")[2]
def stop(*_):
    if behaviour != "deaf":
        raise SystemExit(75)
signal.signal(signal.SIGTERM, stop)
print("rank", rank, os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"], os.environ["OMP_NUM_THREADS"], flush=True)
open(f"{sys.argv[-1]}/started-{rank}", "w").close()
if behaviour == "talk":
    print("x" * 300_000, flush=True)
    behaviour = "ok"
if behaviour in ("crash", "deaf") and rank == "1":
    while not os.path.exists(f"{sys.argv[-1]}/started-0"):
        time.sleep(0.01)
    raise SystemExit(7)
while behaviour != "ok":
    time.sleep(0.02)
"""
IMPATIENT = "import pipeline_lib.launch.pod as pod; pod.KILL_SECONDS = 0.5; pod.main()"


@pytest.fixture
def pod(tmp_path: Path) -> Iterator:
    """Starts the first process of a container; kills what is left of it."""
    (tmp_path / "fakerank.py").write_text(RANK)
    started: list[subprocess.Popen[str]] = []

    def start(
        behaviour: str, nodes: int = 1, log_is_full: bool = False
    ) -> tuple[subprocess.Popen[str], Path]:
        folder = tmp_path / behaviour
        folder.mkdir()
        if log_is_full:
            (folder / "pod-0.log").symlink_to("/dev/full")
        arguments = ["--name=no-such-job", f"--nodes={nodes}", "--ranks=2", "--port=1", "--threads=0"]
        env = {**os.environ, "JOB_COMPLETION_INDEX": "0", "R1_CPUS": "6", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        command = [sys.executable, "-c", IMPATIENT, *arguments, "fakerank", str(folder)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1], folder

    yield start
    for process in started:
        with process:
            process.kill()


def _until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ranks_know_who_they_are_and_are_heard_in_both_places(pod):
    process, folder = pod("ok")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {"rank 0 2 127.0.0.1 3", "rank 1 2 127.0.0.1 3"} < set(out.splitlines())
    assert (folder / "pod-0.log").read_text() == out


def test_the_first_bad_end_stops_the_others_and_is_the_code(pod):
    process, _ = pod("crash")
    process.communicate(timeout=60)
    assert process.returncode == 7, "the rank that was told to stop left with 75"


def test_a_rank_that_does_not_listen_is_killed(pod):
    process, _ = pod("deaf")
    process.communicate(timeout=60)
    assert process.returncode == 7


def test_sigterm_reaches_every_rank(pod):
    process, folder = pod("wait")
    for rank in (0, 1):
        _until(folder / f"started-{rank}")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_no_rank_starts_before_every_pod_has_an_address(pod):
    process, folder = pod("wait", nodes=2)
    _until(folder / "pod-0.log")
    time.sleep(1.5)
    assert not (folder / "started-0").exists()
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "Preempted: asked to stop before every pod had started" in out


def test_a_volume_that_is_full_does_not_stop_ranks_that_have_much_to_say(pod):
    process, _ = pod("talk", log_is_full=True)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.count("x") >= 600_000, "both of them"
