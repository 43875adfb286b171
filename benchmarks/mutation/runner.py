"""Test mutants, one at a time, each in a fork of a process that has imported torch and pytest and nothing of ours.

The work happens in a copy of the working tree; the tree itself is never touched. A mutant is written into the copy's file, so
that child processes (the math verifier, ranks) see it too. Importing torch once instead of once a mutant is the difference
between half an hour and an afternoon.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path

BASELINE_SECONDS = 600.0
"""Limit of one test on the untouched tree."""
_MEMORY_BYTES = 4 * 1024**3
_WRONG_TREE = 99
_PR_SET_PDEATHSIG = 1
_forks = multiprocessing.get_context("fork")


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMEOUT = "timeout"
    """Killed too: a test ran into its time limit."""
    SURVIVED = "survived"


class Tree:
    """A copy of the working tree, in which files change and tests run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stamp = int(time.time()) - 10_000_000

    def write(self, file: str, text: str) -> None:
        """Replace a file. Its time stamp never repeats: Python would take an equal one and an equal size for a known file."""
        self._stamp += 2
        path = self.root / file
        path.write_text(text, encoding="utf-8")
        os.utime(path, (self._stamp, self._stamp))

    @contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """The tree with another text in one file."""
        original = (self.root / file).read_text(encoding="utf-8")
        self.write(file, text)
        try:
            yield
        finally:
            self.write(file, original)

    def fate(
        self, tests: Sequence[str], seconds: float = BASELINE_SECONDS, imported: set[str] | None = None
    ) -> Fate:
        """Run the tests on the tree as it is, up to the first failure.

        Args:
            tests: files, in this order.
            seconds: limit of one test; a mutant can make a loop endless.
            imported: takes our modules that the tests used.
        """
        seen, say = _forks.Pipe(duplex=False)
        with tempfile.TemporaryFile() as log, seen:
            child = _forks.Process(target=_run_tests, args=(self.root, tests, seconds, log.fileno(), say))
            child.start()
            say.close()
            try:
                child.join(60 + 2 * len(tests) * seconds)
                if imported is not None and seen.poll():
                    imported |= seen.recv()
                late = child.is_alive()
            finally:  # a mutant may have lost what ends its processes, and a command that is stopped leaves none
                _kill_group(child.pid)
                child.join()
            log.seek(0)
            output = log.read().decode(errors="replace")
        if late or "+ Timeout +" in output:
            return Fate.TIMEOUT
        if child.exitcode == 0:
            return Fate.SURVIVED
        if child.exitcode in (1, 2) or (child.exitcode or 0) < 0:  # failed, not collected, or crashed
            return Fate.KILLED
        # A mutant that eats memory: pytest had none left to report with.
        if "INTERNALERROR> MemoryError" in output:
            return Fate.KILLED
        raise RuntimeError(f"the tests ended with {child.exitcode}, which says nothing:\n{output[-3000:]}")


@contextmanager
def copied_tree(root: Path) -> Iterator[Tree]:
    """A copy of what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        for file in filter(None, listed.stdout.decode().split("\0")):
            if (root / file).is_file():
                (Path(name) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / file, Path(name) / file)
        yield Tree(Path(name).resolve())


def warm_up(*, with_torch: bool) -> None:
    """Import what every run needs and no mutant can change."""
    import _hypothesis_pytestplugin  # noqa: F401
    import hypothesis
    import pydantic  # noqa: F401
    import pytest_timeout  # noqa: F401
    import yaml  # noqa: F401

    if with_torch:
        import torch

        torch.set_num_threads(1)
        torch.testing.assert_close(torch.ones(1), torch.ones(1))  # loads what torch loads late
    # The same examples for every mutant, because whether one is killed must not be luck; and no search for the smallest.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, phases=phases)
    hypothesis.settings.load_profile("mutation")
    ours = [name for name in sys.modules if name.partition(".")[0] in ("pipeline_lib", "tasks", "tests")]
    if ours:
        raise RuntimeError(f"imported before the fork, so no mutant of them would be seen: {ours}")
    gc.freeze()  # or every fork's garbage collection walks torch, and copies its pages


def _run_tests(root: Path, tests: Sequence[str], seconds: float, log: int, say: Connection) -> None:
    import pytest

    os.setsid()
    ctypes.CDLL(None).prctl(
        _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0
    )  # a command that is stopped leaves nothing behind
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(root)
    sys.path[:] = [str(root), *(p for p in sys.path if p and Path(p).resolve() != Path(__file__).parents[2])]
    sys.dont_write_bytecode = True
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"]
    # By a thread, which ends the process: raising in the test would wait for whatever the test's cleanup waits for.
    limit = [f"--timeout={seconds}", "--timeout-method=thread"]
    options = ["-x", "--tb=line", "-m", "not slow", *limit, *plugins]
    code = int(pytest.main([*options, *tests]))
    ours = {name: module for name, module in sys.modules.items() if name.startswith("pipeline_lib")}
    if not all(str(module.__file__).startswith(str(root)) for module in ours.values()):
        code = _WRONG_TREE
    say.send(set(ours))
    os._exit(code)


def _kill_group(pid: int | None) -> None:
    try:
        os.killpg(pid or 0, signal.SIGKILL)
    except ProcessLookupError:
        return
