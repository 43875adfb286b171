"""Running programs: the verdict says what happened and whose fault it was."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.sandbox.client import Sandbox, run_tests
from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.sandbox.pool import Job, SandboxPool
from pipeline_lib.sandbox.split import plan_tests
from pipeline_lib.types import Outcome, Verdict

ADD = "def add(a, b):\n    return a + b\n"
TESTS = ("assert add(1, 2) == 3", "assert add([1], [2]) == [1, 2]", "assert add('a', 'b') == 'ab'")
REPOSITORY = Path(__file__).resolve().parents[3]
HUMAN_EVAL = (
    Path(os.environ.get("R1_SHARED_DATA", REPOSITORY.parent / "shared" / "data")) / "HumanEval.jsonl.gz"
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def test_right_and_wrong(sandbox: Sandbox) -> None:
    assert sandbox.run_tests(ADD, "add", TESTS).outcome is Outcome.CORRECT
    verdict = sandbox.run_tests("def add(a, b):\n    return 3", "add", TESTS)
    assert verdict.outcome is Outcome.WRONG
    assert verdict.failed_test == "assert add([1], [2]) == [1, 2]"
    assert verdict.detail == "returned 3"
    assert verdict.seconds > 0


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("def add(a, b):\n    return x", "NameError"),
        ("def add(a, b:\n", "SyntaxError"),
        ("def plus(a, b):\n    return a + b", "NameError: name 'add' is not defined"),
        ("import numpy\n" + ADD, "ModuleNotFoundError"),
        ("raise ValueError('at import')", "ValueError: at import"),
        ("", "NameError"),
        ("\0", "null bytes"),
    ],
)
def test_a_broken_program_is_wrong(sandbox: Sandbox, program: str, detail: str) -> None:
    verdict = sandbox.run_tests(program, "add", TESTS)
    assert verdict.outcome is Outcome.WRONG
    assert detail in verdict.detail


def test_standard_library_and_dataclasses_work(sandbox: Sandbox) -> None:
    program = (
        "import dataclasses, decimal, hashlib, heapq, itertools, json, math, random, re, tempfile, time, zoneinfo, xml.dom.minidom\n"
        "@dataclasses.dataclass\nclass P:\n    x: int\n"
        "def f():\n    time.sleep(0.001)\n    with tempfile.TemporaryFile() as t:\n        t.write(b'x')\n"
        "    return [P(2).x, hashlib.sha256(b'').hexdigest()[:4], math.comb(5, 2)]\n"
    )
    verdict = sandbox.run_tests(program, "f", ["assert f() == [2, 'e3b0', 10]"])
    assert verdict.outcome is Outcome.CORRECT, verdict


def test_programs_are_deterministic(sandbox: Sandbox) -> None:
    program = "import random\ndef f():\n    return [random.random(), hash('x')]"
    first = sandbox.run_tests(program, "f", ["assert f() == 0"]).detail
    assert sandbox.run_tests(program, "f", ["assert f() == 0"]).detail == first


@pytest.mark.parametrize(
    "test",
    [
        "import math\nassert math.isclose(add(0.1, 0.2), 0.3)",
        "def check(candidate):\n    for i in range(5):\n        assert candidate(i, i) == 2 * i\n",
        "x = add(1, 1)\nassert x == 2",
        "assert add(add(1, 1), 1) == helper(3)",
        "try:\n    add(1, 'a')\nexcept TypeError:\n    pass\nelse:\n    raise AssertionError",
    ],
)
def test_judged_tests(sandbox: Sandbox, test: str) -> None:
    program = ADD + "def helper(n):\n    return n\n"
    assert sandbox.run_tests(program, "add", [test]).outcome is Outcome.CORRECT
    wrong = "def add(a, b):\n    return None\ndef helper(n):\n    return n\n"
    assert sandbox.run_tests(wrong, "add", [test]).outcome is Outcome.WRONG


def test_split_and_judged_tests_in_one_problem(sandbox: Sandbox) -> None:
    tests = [TESTS[0], "for i in range(3):\n    assert add(i, 0) == i"]
    assert sandbox.run_tests(ADD, "add", tests).outcome is Outcome.CORRECT
    assert sandbox.run_tests("def add(a, b):\n    return 3", "add", tests).failed_test == "for i in range(3):"


@pytest.mark.parametrize("tests", [[], ["assert add("], ["assert add(lambda: 1, 2) == add(1, 2)"]])
def test_a_broken_test_is_the_verifiers_error(sandbox: Sandbox, tests: list[str]) -> None:
    assert sandbox.run_tests(ADD, "add", tests).outcome is Outcome.VERIFIER_ERROR


def test_time_limit(sandbox: Sandbox) -> None:
    verdict = sandbox.run_tests(
        "def add(a, b):\n    while 1: pass", "add", TESTS, Limits(cpu_seconds=1, wall_seconds=20)
    )
    assert verdict.outcome is Outcome.WRONG
    assert verdict.detail == "used its 1 s of processor time"


def test_memory_limit(sandbox: Sandbox) -> None:
    verdict = sandbox.run_tests("def add(a, b):\n    return len(bytes(1 << 30))", "add", TESTS)
    assert verdict.outcome is Outcome.WRONG
    assert "MemoryError" in verdict.detail


@pytest.mark.parametrize(
    "change", [{"cpu_seconds": 0}, {"wall_seconds": 1.0}, {"memory_bytes": 1}, {"open_files": -1}]
)
def test_limits_are_checked(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="limits"):
        Limits(**change)  # type: ignore[arg-type]


def test_pool_keeps_order_and_works_from_threads() -> None:
    jobs = [Job(f"def f():\n    return {i}", "f", ("assert f() == 3",)) for i in range(8)]
    with SandboxPool(2) as pool:
        results: list[list[Outcome]] = []
        thread = threading.Thread(target=lambda: results.append([v.outcome for v in pool.run_batch(jobs)]))
        thread.start()
        mine = [verdict.outcome for verdict in pool.run_batch(jobs)]
        thread.join()
    assert mine == results[0] == [Outcome.CORRECT if i == 3 else Outcome.WRONG for i in range(8)]


def test_module_level_function() -> None:
    assert run_tests(ADD, "add", TESTS).outcome is Outcome.CORRECT


def _human_eval() -> list[dict[str, str]]:
    if not HUMAN_EVAL.is_file():
        pytest.skip(
            f"{HUMAN_EVAL} is not here: set R1_SHARED_DATA to the folder that holds HumanEval.jsonl.gz"
        )
    with gzip.open(HUMAN_EVAL, "rt") as lines:
        return [json.loads(line) for line in lines]


def _references_pass(sandbox: Sandbox, rows: list[dict[str, str]]) -> None:
    for row in rows:
        right = row["prompt"] + row["canonical_solution"]
        verdict = sandbox.run_tests(right, row["entry_point"], [row["test"]])
        assert verdict.outcome is Outcome.CORRECT, (row["task_id"], verdict)
        forged = (
            f"class A:\n    def __eq__(self, o): return True\ndef {row['entry_point']}(*a):\n    return A()\n"
        )
        verdict = sandbox.run_tests(forged, row["entry_point"], [row["test"]])
        assert verdict.outcome is Outcome.WRONG, (row["task_id"], verdict)


def test_some_human_eval_references_pass(sandbox: Sandbox) -> None:
    _references_pass(sandbox, _human_eval()[::10])


@pytest.mark.slow
def test_all_human_eval_references_pass(sandbox: Sandbox) -> None:
    _references_pass(sandbox, _human_eval())


SLOW = "def f():\n    deadline = __import__('time').monotonic() + 1.0\n    while __import__('time').monotonic() < deadline: pass\n    return 1"


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@pytest.mark.parametrize("kills", [1, 2])
@pytest.mark.parametrize("victim", ["program", "judge", "server"])
@pytest.mark.parametrize(
    "tests", [("assert f() == 1",), ("x = f()\nassert x == 1",)], ids=["split", "judged"]
)
def test_a_program_is_judged_whatever_is_killed_around_it(tests, victim: str, kills: int) -> None:
    """Once: it runs again. Twice: what can be said then, which is never that it is right."""
    if victim == "judge" and len(plan_tests(tests, "f").judged) == 0:
        pytest.skip("nobody but the program runs")
    said: list[Verdict] = []
    with Sandbox() as disturbed:
        thread = threading.Thread(target=lambda: said.append(disturbed.run_tests(SLOW, "f", tests)))
        thread.start()
        killed: set[int] = set()
        deadline = time.monotonic() + 30
        while len(killed) < kills:
            assert time.monotonic() < deadline, "there is nothing to kill"
            time.sleep(0.02)
            server = disturbed._server
            if server is None or server.pid in killed:
                continue
            programs = [pid for pid in _children(server.pid) if pid not in killed]
            if programs and len(programs) >= (1 if victim != "judge" else 2):
                time.sleep(0.2)
                target = {"program": programs[0], "judge": programs[-1], "server": server.pid}[victim]
                os.kill(target, signal.SIGKILL)
                killed.add(target)
        thread.join()
        if kills == 1:
            assert said[0].outcome is Outcome.CORRECT
        else:
            assert said[0].outcome is (Outcome.WRONG if victim == "program" else Outcome.TIMEOUT)
        assert disturbed.run_tests(ADD, "add", TESTS).outcome is Outcome.CORRECT
