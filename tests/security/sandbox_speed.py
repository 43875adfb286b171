"""Programs per second: `python -m tests.security.sandbox_speed`.

Runs one three-test program many times in the sandbox (tests that are cut, and tests that need the second jail), and as a plain
`python -I` process without containment. Prints wall time and processor time of everything involved; on a machine
that does other work too, only the processor time means something.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline_lib.sandbox.client import Sandbox
from pipeline_lib.types import Outcome

PROGRAM = "def add(a, b):\n    return a + b\n"
CUT = ("assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert add([1], [2]) == [1, 2]")
JUDGED = ("import math\nassert math.isclose(add(1, 2), 3) and add(2, 2) == 4 and add([1], [2]) == [1, 2]",)
ROUNDS = 200


def _tree_seconds(pid: int) -> float:
    """Processor time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _report(name: str, action: Callable[[], None], processor: Callable[[], float]) -> None:
    for _ in range(10):
        action()
    walls = []
    before = processor()
    for _ in range(ROUNDS):
        started = time.perf_counter()
        action()
        walls.append(time.perf_counter() - started)
    used = (processor() - before) / ROUNDS
    median = sorted(walls)[ROUNDS // 2]
    print(
        f"{name:28} median {median * 1e3:6.2f} ms, processor {used * 1e3:6.2f} ms: {1 / used:5.0f} programs/s/core"
    )


def main() -> None:
    """Print one line per way of running the program."""
    with Sandbox() as sandbox:
        server = sandbox._server
        assert server is not None
        for name, tests in (("sandbox, cut tests", CUT), ("sandbox, second jail", JUDGED)):

            def run(tests: tuple[str, ...] = tests) -> None:
                assert sandbox.run_tests(PROGRAM, "add", tests).outcome is Outcome.CORRECT

            _report(name, run, lambda: _tree_seconds(server.pid) + time.process_time())
    code = PROGRAM + "\n".join(CUT)
    interpreter = os.path.realpath(sys.executable)

    def plain() -> None:
        subprocess.run([interpreter, "-I", "-c", code], check=True)

    def children() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime + time.process_time()

    _report("python -I, no containment", plain, children)


if __name__ == "__main__":
    main()
