"""The two sides of a comparison as processes that take turns: start them, let each make a step, stop them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks._measure import MemoryWatch
from benchmarks._work import Work
from pipeline_lib.launch.job import TUNABLES, memory_kept

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"r1": "this project", "trl": "TRL 1.16"}
"""Sides by the name of their worker, as tables call them."""
PEER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"


@dataclass(frozen=True, slots=True)
class Step:
    """What one side says of a step."""

    seconds: float
    phases: Mapping[str, float]
    facts: Mapping[str, float]
    """samples, tokens, reward, accuracy …"""


class Side:
    """A trainer in a process of its own (or in one a rank). Use as a context manager."""

    def __init__(self, name: str, work: Work) -> None:
        """`name`: `r1` or `trl`. Returns when it is ready for its first step. RuntimeError when it cannot start."""
        self.name, self.work = name, work
        self._folder = tempfile.TemporaryDirectory(prefix=f"bench-{name}-")
        folder = Path(self._folder.name)
        (folder / "work.json").write_text(json.dumps(asdict(work)), encoding="utf-8")
        python = PEER_PYTHON if name == "trl" else Path(sys.executable)
        if not python.exists():
            raise RuntimeError(f"{python} is missing: run `make bench-setup`")
        self._log = (folder / "log").open("w+", encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._ranks = [
            subprocess.Popen(
                [str(python), "-m", f"benchmarks.worker_{name}", str(folder / "work.json")],
                cwd=ROOT,
                env=_environment(name, rank, work, port),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
            for rank in range(work.world_size)
        ]
        self._watches = [MemoryWatch(process.pid) for process in self._ranks]
        self._hear()

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._ranks:
            process.terminate()
        for process in self._ranks:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for watch in self._watches:
            watch.stop()
        self._log.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The first rank's process."""
        return self._ranks[0].pid

    @property
    def peak_mib(self) -> float:
        """The most memory held so far, by all ranks."""
        return sum(watch.peak_mib for watch in self._watches)

    def step(self) -> Step:
        """Let it make one step."""
        answer = self._ask("step")
        facts = {key: value for key, value in answer.items() if key not in ("seconds", "phases")}
        return Step(answer["seconds"], answer["phases"], facts)

    def measure(self) -> dict[str, float]:
        """Accuracy on the held-out problems, now."""
        return self._ask("measure")

    def _ask(self, order: str) -> dict[str, Any]:
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.write(order + "\n")
            process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        """The first rank's answer; every rank's is waited for."""
        answers = []
        for process in self._ranks:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                self._log.seek(0)
                raise RuntimeError(f"{self.name} ended; the end of its log:\n{self._log.read()[-3000:]}")
            answers.append(json.loads(line))
        first: dict[str, Any] = answers[0]
        return first


def _environment(name: str, rank: int, work: Work, port: int) -> dict[str, str]:
    """Each side as it is started without a benchmark: a job of ours by its launcher, the peer by hand."""
    inherited = {key: value for key, value in os.environ.items() if key != TUNABLES}
    fixed = {
        "DS_ACCELERATOR": work.device,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(work.threads),
    }
    if work.world_size > 1:
        fixed |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(work.world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    if name == "r1" and work.device == "cpu":
        fixed |= memory_kept()
    return {**inherited, **fixed}


def take_turns(sides: Sequence[Side], rounds: int, warm_up: int) -> list[list[Step]]:
    """`rounds` steps of each side, A B A B …, after `warm_up` steps of each that do not count."""
    steps: list[list[Step]] = [[] for _ in sides]
    for turn in range(warm_up + rounds):
        for index, side in enumerate(sides):
            step = side.step()
            if turn >= warm_up:
                steps[index].append(step)
            print(f"  {side.name} step {turn}: {step.seconds:.2f} s", file=sys.stderr, flush=True)
    return steps
