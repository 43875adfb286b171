"""What runs in a pod: this node's ranks, started when every pod of the job has an address.

`python -m pipeline_lib.launch.pod` is the container's first process. It passes SIGTERM on to its ranks, lets the first
that ends badly decide the exit code (the others, told to stop, leave in order and would say 75), and writes what the
ranks say to its own output and to a log on the shared volume, which outlives the pod.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pipeline_lib.errors import EXIT_PREEMPTED

LOOK_SECONDS = 0.1
REMIND_SECONDS = 60.0
KILL_SECONDS = 30.0
"""After one rank's bad end the others have so long: a rank that waits for a dead one never leaves by itself."""
DRAIN_SECONDS = 5.0
"""Processes that outlive the ranks may hold their output open."""


def pod_log(folder: Path, index: int) -> Path:
    """The log of one pod: each file has one writer, as shared file systems want it."""
    return folder / f"pod-{index}.log"


class Pod:
    """The ranks of this pod."""

    def __init__(self, log: Path) -> None:
        self._asked = False
        self._ranks: dict[int, subprocess.Popen[bytes]] = {}
        self._log = log.open("wb", buffering=0)
        reader, self._output = os.pipe()
        self._tee = threading.Thread(target=self._copy, args=(reader,), daemon=True)
        self._tee.start()
        signal.signal(signal.SIGTERM, self._stop)

    def _copy(self, reader: int) -> None:
        """A place that takes no more (a full volume, a server that is away) must not stop the ranks at a full pipe."""
        while data := os.read(reader, 1 << 16):
            with suppress(OSError):
                self._log.write(data)
            with suppress(OSError):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()

    def say(self, text: str) -> None:
        """One line of our own in the log."""
        os.write(self._output, f"{text}\n".encode())

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for rank in self._ranks.values():
            rank.send_signal(number)  # does nothing to one that was waited for

    def wait_for(self, hosts: list[str]) -> None:
        """Until every host has an address. However long: pods may wait for nodes, and the job has a time limit."""
        reminded = time.monotonic()
        while missing := [host for host in hosts if not _has_address(host)]:
            if self._asked:
                self.say("Preempted: asked to stop before every pod had started; nothing is lost")
                self.leave(EXIT_PREEMPTED)
            if time.monotonic() - reminded > REMIND_SECONDS:
                self.say(f"waiting for {len(missing)} of {len(hosts)} pods, the first is {missing[0]}")
                reminded = time.monotonic()
            time.sleep(1.0)

    def run(self, command: list[str], environments: list[dict[str, str]]) -> int:
        """Start one rank an environment and wait for all; the code of the first that ended badly, or 0."""
        for environment in environments:
            rank = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
            )
            self._ranks[rank.pid] = rank
            if self._asked:
                rank.send_signal(signal.SIGTERM)
        code, deadline = 0, float("inf")
        while self._ranks:
            for pid, rank in list(self._ranks.items()):
                if (ended := rank.poll()) is None:
                    continue
                del self._ranks[pid]
                if ended and not code:
                    code = ended if ended > 0 else 128 - ended
                    deadline = time.monotonic() + KILL_SECONDS
                    if not self._asked:
                        self._tell(signal.SIGTERM)
            if time.monotonic() > deadline:
                self._tell(signal.SIGKILL)
            time.sleep(LOOK_SECONDS)
        return code

    def leave(self, code: int) -> None:
        """Write what is left to write and end."""
        os.close(self._output)
        self._tee.join(DRAIN_SECONDS)
        os._exit(code)


def main() -> None:
    """Parse the command line, run the ranks, exit with the code of the first that ended badly."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_lib.launch.pod", description=__doc__)
    parser.add_argument("--name", required=True, help="the Job's and its Service's name")
    parser.add_argument("--nodes", type=int, required=True, help="pods of the job")
    parser.add_argument("--ranks", type=int, required=True, help="ranks of this pod")
    parser.add_argument("--port", type=int, required=True, help="where rank 0 listens")
    parser.add_argument(
        "--threads", type=int, required=True, help="of each rank; 0: a share of the pod's cores"
    )
    parser.add_argument("module", help="the Python module that each rank runs")
    parser.add_argument("folder", type=Path, help="its argument")
    asked = parser.parse_args()
    index = int(os.environ["JOB_COMPLETION_INDEX"])
    pod = Pod(pod_log(asked.folder, index))
    pod.say(f"pod {index} of {asked.nodes} on {socket.gethostname()}")
    hosts = [f"{asked.name}-{other}.{asked.name}" for other in range(asked.nodes)]
    if asked.nodes > 1:
        pod.wait_for(hosts)
    shared = {
        **os.environ,
        "MASTER_ADDR": hosts[0] if asked.nodes > 1 else "127.0.0.1",
        "MASTER_PORT": str(asked.port),
        "WORLD_SIZE": str(asked.nodes * asked.ranks),
        "OMP_NUM_THREADS": str(asked.threads or max(int(os.environ["R1_CPUS"]) // asked.ranks, 1)),
    }
    ranks = [
        {**shared, "RANK": str(index * asked.ranks + local), "LOCAL_RANK": str(local)}
        for local in range(asked.ranks)
    ]
    pod.leave(pod.run([sys.executable, "-m", asked.module, str(asked.folder)], ranks))


def _has_address(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except socket.gaierror:
        return False


if __name__ == "__main__":
    main()
