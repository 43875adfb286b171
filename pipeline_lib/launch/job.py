"""A job, described once for every launcher, and the directory it lives in.

What a job computes is its `JobSpec`; a `Job` says what it needs to run: nodes, ranks, GPUs, a program, its environment
and a time limit. Each launcher renders that in its own words (a process, an sbatch script).
"""

from __future__ import annotations

import codecs
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError
from pipeline_lib.storage.atomic import write_bytes
from pipeline_lib.training.spec import JobSpec

MODULE = "pipeline_lib.training.job"
RESULT = "result.json"
LOG = "job.log"
TAIL_LINES = 30
TUNABLES = "GLIBC_TUNABLES"
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}"
    for name in ("mmap_max=0", "trim_threshold=274877906944", "top_pad=67108864", "hugetlb=1")
)
"""Nothing goes back to the kernel, and the heap is of huge pages: otherwise every step faults its memory in again (decision 0013)."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a launcher has to know."""

    name: str
    """Stage and item, as people write them."""
    root: Path
    """The worktree: the job's working directory."""
    folder: Path
    """checkpoints/<name>-<content key>/ of the worktree."""
    module: str
    """The Python module that each rank runs, with `folder` as its argument."""
    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    """0: a job for CPUs."""
    threads: int
    """Of each rank; 0: an equal share of its node's cores."""
    time_limit_minutes: int
    """0: the launcher's own limit, or none."""
    grace_seconds: int
    """SIGTERM comes this long before the time limit."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The launcher's own section below `engine`."""

    @property
    def label(self) -> str:
        """Stage and content key, as queues know the job: equal jobs of one worktree have equal labels."""
        return f"r1-{self.folder.name}"

    @property
    def ranks(self) -> int:
        """Processes on all nodes together."""
        return self.nodes * self.ranks_per_node

    @property
    def program(self) -> tuple[str, ...]:
        """The command line of one rank."""
        return (sys.executable, "-m", self.module, str(self.folder))

    @property
    def environment(self) -> dict[str, str]:
        """What every rank finds in its environment, whoever launches it (threads are the launcher's to count)."""
        fixed = {"TOKENIZERS_PARALLELISM": "false"}
        return fixed if self.gpus_per_node else {**fixed, "DS_ACCELERATOR": "cpu", **memory_kept()}


def memory_kept() -> dict[str, str]:
    """The setting by which C's allocator keeps what a step frees for the next one. GLIBC_TUNABLES of this process wins, empty too."""
    return {TUNABLES: os.environ.get(TUNABLES, KEEP_MEMORY)}


def describe(spec: JobSpec, root: Path, folder: Path) -> Job:
    """The job of `spec`. A launcher with a section of its own below `engine` places ranks as that says.

    ConfigError when the ranks do not fill whole nodes.
    """
    ranks = int(spec.engine["world_size"])
    settings: Mapping[str, Any] = spec.engine.get(str(spec.engine["launcher"])) or {}
    gpus = int(settings.get("gpus_per_node", 0))
    per_node = (gpus or 1) if settings else ranks
    if ranks % per_node:
        raise ConfigError("engine.world_size", ranks, f"must be a multiple of the {per_node} ranks of a node")
    return Job(
        name=spec.name,
        root=root,
        folder=folder,
        module=MODULE,
        nodes=ranks // per_node,
        ranks_per_node=per_node,
        gpus_per_node=gpus if settings else int(Path("/dev/nvidia0").exists()) * ranks,
        threads=int(spec.engine["threads"]),
        time_limit_minutes=int(settings.get("time_limit_minutes", 0)),
        grace_seconds=int(settings.get("grace_seconds", 0)),
        settings=settings,
    )


def prepare_folder(spec: JobSpec, root: Path) -> Path:
    """The job's directory, checkpoints/<name>-<content key>/, with its spec. DataError for a missing input."""
    folder = root / "checkpoints" / f"{spec.name}-{spec.content_key(root)}"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "spec.json", spec.to_json().encode())
    return folder


def finished_result(spec: JobSpec, root: Path, folder: Path) -> Mapping[str, float] | None:
    """The metrics of a job that is done and whose outputs are all there; None otherwise."""
    if not (folder / RESULT).is_file() or not all((root / path).exists() for path in spec.outputs.values()):
        return None
    metrics: Mapping[str, float] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return metrics


def log_tail(folder: Path) -> list[str]:
    """The last lines of the job's log."""
    path = folder / LOG
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]


def remove_folder(folder: Path) -> None:
    """Remove a finished job's directory with its checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)


class LogReader:
    """Reads on in a log that somebody else writes, from its beginning; one that is begun anew is read anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin()

    def _begin(self) -> None:
        self._position = 0
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode

    def __call__(self) -> str:
        """What was written since the last call."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._position:
                    self._begin()
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return ""
        self._position += len(data)
        return self._decode(data)
