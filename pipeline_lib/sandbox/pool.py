"""A batch of programs, spread over a few sandboxes."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

from pipeline_lib.sandbox.client import Sandbox
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """One program and its tests."""

    program: str
    entry_point: str
    tests: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)


class SandboxPool:
    """A few sandboxes that share a batch. Use as a context manager; `run_batch` may be called from any thread."""

    def __init__(self, workers: int = 2) -> None:
        if workers < 1:
            raise ValueError(f"workers = {workers}: must be at least 1")
        self._free: queue.Queue[Sandbox] = queue.Queue()
        self._sandboxes = [Sandbox() for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> SandboxPool:
        for sandbox in self._sandboxes:
            self._free.put(sandbox.__enter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every fork server."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def run_batch(self, jobs: Sequence[Job]) -> list[Verdict]:
        """A verdict per job, in order."""
        return list(self._threads.map(self._run, jobs))

    def _run(self, job: Job) -> Verdict:
        sandbox = self._free.get()
        try:
            return sandbox.run_tests(job.program, job.entry_point, job.tests, job.limits)
        finally:
            self._free.put(sandbox)
