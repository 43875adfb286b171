"""How every benchmark measures: A B A B within one run, medians with their range, memory of the whole process tree.

A shared machine's speed drifts by a factor; a ratio of two sides that take turns does not. So every comparison alternates
its sides step by step, and a ratio is taken pair by pair before its median is.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its range."""

    median: float
    low: float
    high: float
    count: int

    def show(self, digits: int = 2, unit: str = "") -> str:
        """`1.25 (1.10–1.40) s`."""
        shown = f"{self.median:,.{digits}f} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"
        return f"{shown} {unit}".strip()


def spread(values: Iterable[float]) -> Spread:
    """Median, minimum and maximum. ValueError for no values."""
    numbers = list(values)
    return Spread(statistics.median(numbers), min(numbers), max(numbers), len(numbers))


def ratio_of_pairs(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Spread of above[i] / below[i]: the i-th measurements were neighbours in time."""
    return spread(a / b for a, b in zip(above, below, strict=True))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent b of y = a·x^b, by least squares on logarithms: 1 is linear."""
    from math import log

    return statistics.linear_regression([log(x) for x in xs], [log(y) for y in ys]).slope


def machine() -> str:
    """One line that names what the numbers were measured on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}; commit "
        f"{commit()}; load before the run {load:.1f}"
    )


def commit() -> str:
    """The checkout's commit, with `+` when files differ from it; the page that the tables are written to may."""
    root = Path(__file__).resolve().parent.parent
    head = _git(root, "rev-parse", "--short", "HEAD")
    differ = _git(
        root, "status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude)docs/benchmarks.md"
    )
    return head + "+" * bool(differ)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or "unknown" * (done.returncode != 0)


def peak_mib_of(action: Callable[[], object]) -> float:
    """The most memory this process had resident during `action`, all that it held before included (Linux, VmHWM).

    First the allocator gives back what it keeps of earlier work: else a second call would look as large as the first.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak becomes what is resident now
    action()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


class MemoryWatch:
    """The largest memory a process and its children held together: proportional set size, so shared pages count once."""

    def __init__(self, pid: int, every_seconds: float = 0.2) -> None:
        self.peak_mib = 0.0
        self._process = psutil.Process(pid)
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.peak_mib = max(self.peak_mib, self._now())

    def _now(self) -> float:
        """What they hold in MiB; 0 where that can be no new peak."""
        try:
            family = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0.0
        # What pages are shared with whom takes the system a walk over all of them; nobody's share exceeds what is resident.
        if sum(_resident(process) for process in family) <= self.peak_mib * (1 << 20):
            return 0.0
        return sum(_pss(process.pid) for process in family) / 1024

    def stop(self) -> float:
        """End watching; the peak in MiB."""
        self._stop.set()
        self._thread.join()
        return self.peak_mib


def _resident(process: psutil.Process) -> int:
    """Bytes; 0 for a process that has gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _pss(pid: int) -> int:
    """KiB; 0 for a process that has gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return 0
