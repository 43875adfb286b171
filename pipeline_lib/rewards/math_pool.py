"""Math verification with a hard deadline: a few `math_worker` processes and who talks to them.

The time limit belongs to the process, not to a signal handler: what does not answer in time is killed and replaced.
"""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pipeline_lib.errors import PipelineError
from pipeline_lib.rewards.math_worker import ATTEMPTS, WALL_FACTOR
from pipeline_lib.sandbox import codec

_START_SECONDS = 120.0
_GRACE_SECONDS = 5.0
_PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from pipeline_lib.startup import quick_end
with quick_end():
    from pipeline_lib.rewards.math_worker import main
    main()
"""
"""Taking sympy apart at Python's own end takes a third of a second of processor time."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the worker said: equal, different, gold_unparsed, unparsed, timeout or error."""

    result: str
    detail: str = ""


class _Worker:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def compare(self, gold: str, answer: str, seconds: float) -> Comparison:
        try:
            request = codec.pack({"gold": gold, "answer": answer, "seconds": seconds})
        except codec.CodecError as error:
            return Comparison("unparsed", str(error))
        for _ in range(ATTEMPTS):
            comparison = self._ask(request, seconds)
            if comparison is not None:
                return comparison
        return Comparison("error", "the verifier process died")

    def _ask(self, request: bytes, seconds: float) -> Comparison | None:
        """What the process said; None when it is gone: it died here, or was killed since the last question."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request)
            if not select.select([process.stdout], [], [], WALL_FACTOR * seconds + _GRACE_SECONDS)[0]:
                self.close()
                return Comparison("timeout", "the verifier process does not answer")
            reply = codec.read_frame(process.stdout.fileno())
        except (OSError, codec.CodecError):
            reply = None
        if not isinstance(reply, dict):
            self.close()
            return None
        return Comparison(str(reply["result"]), str(reply.get("detail", "")))

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            cwd="/",
            bufsize=0,
        )
        assert process.stdout is not None
        ready = select.select([process.stdout], [], [], _START_SECONDS)[0]
        if not ready or codec.read_frame(process.stdout.fileno()) != {"up": True}:
            process.kill()
            process.wait()
            raise PipelineError(
                "the math verifier did not start: `python -m pipeline_lib.rewards.math_worker` shows why"
            )
        self._process = process
        return process

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class MathPool:
    """Compares answers in `workers` processes, started when first needed. Use as a context manager; thread-safe."""

    def __init__(self, workers: int = 1, seconds: float = 5.0) -> None:
        if workers < 1 or seconds <= 0:
            raise ValueError(f"workers = {workers}, seconds = {seconds}: both must be positive")
        self._seconds = seconds
        self._workers = [_Worker() for _ in range(workers)]
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="math-verify")

    def __enter__(self) -> MathPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every worker."""
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def compare(self, gold: str, answer: str) -> Comparison:
        """Is `answer` the same mathematical object as `gold`? Both LaTeX.

        Returns within `seconds` of processor time, and within `WALL_FACTOR` times as long on the wall (plus grace). Whose
        process was killed is compared once more, which may take as long again.
        """
        worker = self._free.get()
        try:
            return worker.compare(gold, answer, self._seconds)
        finally:
            self._free.put(worker)

    def compare_batch(self, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
        """`compare` for many (gold, answer) pairs, in order."""
        return list(self._threads.map(lambda pair: self.compare(*pair), pairs))
