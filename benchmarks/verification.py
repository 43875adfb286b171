"""Verification: programs and answers a second, contained and bounded, against the plain way without either.

Programs: one small function with three tests, in the sandbox (tests that are cut into calls, and tests that need the second
jail), and as a bare `python -I` process. Answers: judged as in training, against `math_verify.verify(parse(…), parse(…))`
called in a loop, on the answers of three kinds of problem sets. Rates are per core: processor time of everything involved.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import Spread, ratio_of_pairs, spread, table

PROGRAM = "def add(a, b):\n    return a + b\n"
CUT = ("assert add(1, 2) == 3", "assert add(2, 2) == 4", "assert add([1], [2]) == [1, 2]")
JUDGED = ("import math\nassert math.isclose(add(1, 2), 3) and add(2, 2) == 4 and add([1], [2]) == [1, 2]",)
BATCH = 25
"""Programs a measurement."""
Pair = tuple[str, str]
"""(expected answer, given answer)."""

FORMULAS = (
    ("\\frac{{{a}}}{{{b}}}", "\\frac{{{b}}}{{{a}}}"),
    ("\\frac{{\\sqrt{{{a}}}}}{{{b}}}", "\\frac{{\\sqrt{{{a}}}}}{{{b}}}"),
    ("x^2+{a}x+{b}", "{b}+x({a}+x)"),
    ("{a}\\sqrt{{{b}}}", "\\sqrt{{{a}}}"),
    ("({a},{b})", "({b},{a})"),
    ("\\frac{{{a}\\pi}}{{{b}}}", "\\frac{{{a}\\pi}}{{{b}}}"),
    ("{a}+{b}i", "{b}i+{a}"),
    ("\\{{{a},{b},1\\}}", "\\{{1,{b},{a}\\}}"),
)
"""(expected, given) with two numbers to fill in."""
HOSTILE = (("2^{10}", "9^{9^{9^{9}}}"), ("x^2+1", "\\frac{1}{" * 40 + "x" + "}" * 40), ("10", "99999!" * 3))
"""Answers that algebra does not finish, or not soon: each side gets as long as its own deadline allows."""


def _timed(action: Callable[[], None], processor: Callable[[], float]) -> tuple[float, float]:
    wall, used = time.perf_counter(), processor()
    action()
    return time.perf_counter() - wall, processor() - used


def _tree_seconds(pid: int) -> float:
    """Processor time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime + time.process_time()


def programs(rounds: int) -> str:
    """The table for code."""
    from pipeline_lib.sandbox.client import Sandbox
    from pipeline_lib.types import Outcome

    code = PROGRAM + "\n".join(CUT)
    interpreter = os.path.realpath(sys.executable)

    def plain() -> None:
        for _ in range(BATCH):
            subprocess.run([interpreter, "-I", "-c", code], check=True)

    with Sandbox() as sandbox:
        server = sandbox._server
        assert server is not None

        def contained(tests: Sequence[str]) -> None:
            for _ in range(BATCH):
                assert sandbox.run_tests(PROGRAM, "add", tuple(tests)).outcome is Outcome.CORRECT

        def spent() -> float:
            return _tree_seconds(server.pid) + time.process_time()

        sides: dict[str, tuple[Callable[[], None], Callable[[], float]]] = {
            "sandbox, tests cut into calls": (lambda: contained(CUT), spent),
            "sandbox, second jail": (lambda: contained(JUDGED), spent),
            "`python -I`, no containment": (plain, _children_seconds),
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(rounds + 1):
            for name, (action, processor) in sides.items():
                times = _timed(action, processor)
                if turn:
                    measured[name].append(times)
    *_, plain_times = measured.values()
    rows = []
    for name, times in measured.items():
        wall, used = ([pair[i] for pair in times] for i in (0, 1))
        faster = ratio_of_pairs([pair[0] for pair in plain_times], wall)
        rows.append([name, *_rates(wall, used, BATCH), f"{faster.show(1)}×"])
    header = [
        "a three-test program",
        "ms each, one after the other",
        "programs/s/core",
        "speed against plain",
    ]
    return table(header, rows)


def _rates(wall: Sequence[float], used: Sequence[float], count: int) -> tuple[str, str]:
    each: Spread = spread(1e3 * seconds / count for seconds in wall)
    return each.show(2), spread(count / max(seconds, 1e-9) for seconds in used).show(0)


def answers(rounds: int, count: int) -> str:
    """The table for math."""
    draw = random.Random(0)

    def numbers() -> list[Pair]:
        return [(str(draw.randrange(7)), str(draw.randrange(7))) for _ in range(count)]

    def prices() -> list[Pair]:
        return [(f"{draw.randrange(1, 50000):,}", f"${draw.randrange(1, 50000)}.00") for _ in range(count)]

    def formulas() -> list[Pair]:
        pairs = []
        for index in range(count):
            a, b = draw.randrange(2, 1000), draw.randrange(1000, 9999)
            expected, given = FORMULAS[index % len(FORMULAS)]
            pairs.append((expected.format(a=a, b=b), given.format(a=a, b=b)))
        return pairs

    kinds = {"micro world (0 to 6)": numbers, "word problems (`1,234`)": prices, "formulas (LaTeX)": formulas}
    rows = [[kind, *_answers([make() for _ in range(rounds + 1)])] for kind, make in kinds.items()]
    return table(
        [
            "expected answers",
            "judged/s/core here",
            "judged/s/core, math-verify",
            "faster with one worker by",
            "with two by",
        ],
        rows,
    )


def _answers(batches: Sequence[Sequence[Pair]]) -> tuple[str, str, str, str]:
    """Each side on every batch, in turns; the first warms up. No batch is judged twice: a cache would answer.

    A core is compared with a core: two workers on a processor whose cores share units slow each other down.
    """
    from math_verify import parse, verify

    from pipeline_lib.rewards.combine import Scorer
    from pipeline_lib.types import Domain, Problem

    times: dict[str, list[tuple[float, float]]] = {"one": [], "naive": [], "two": []}
    with Scorer(workers=1) as one, Scorer(workers=2) as two:
        for number, pairs in enumerate(batches):
            problems = [
                Problem(f"{number}-{index}", Domain.MATH, "?", answer=gold)
                for index, (gold, _) in enumerate(pairs)
            ]
            texts = [f"<think>so</think><answer>{answer}</answer>" for _, answer in pairs]

            def naive(pairs: Sequence[Pair] = pairs) -> None:
                for gold, answer in pairs:
                    verify(parse(f"${gold}$"), parse(f"${answer}$"))

            times["one"].append(_timed(partial(one.verify_batch, problems, texts), _family_seconds))
            times["naive"].append(_timed(naive, _family_seconds))
            times["two"].append(_timed(partial(two.verify_batch, problems, texts), _family_seconds))
    rates = [
        spread(len(batches[0]) / max(used, 1e-3) for _, used in times[side][1:]).show(0)
        for side in ("one", "naive")
    ]
    wall = {side: [seconds for seconds, _ in found[1:]] for side, found in times.items()}
    ratios = [f"**{ratio_of_pairs(wall['naive'], wall[side]).show(1)}×**" for side in ("one", "two")]
    return rates[0], rates[1], ratios[0], ratios[1]


def _family_seconds() -> float:
    """Processor time of this process, of its living descendants (the math verifier's workers) and of what those waited for."""
    import psutil

    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(t.user + t.system + t.children_user + t.children_system for t in times)


def hostile() -> str:
    """What each side does with answers that algebra does not finish."""
    from pipeline_lib.rewards.accuracy import Question, judge_quickly, verdict_of
    from pipeline_lib.rewards.math_pool import MathPool

    rows = []
    with MathPool(workers=1, seconds=5.0) as pool:
        pool.compare("1", "1")
        for gold, answer in HOSTILE:
            began = time.perf_counter()
            verdict = judge_quickly(gold, answer)
            if isinstance(verdict, Question):
                verdict = verdict_of(verdict, answer, pool.compare(verdict.gold, verdict.answer))
            seconds = time.perf_counter() - began
            shown = answer if len(answer) < 24 else answer[:20] + "…"
            rows.append([f"`{shown}`", f"{verdict.outcome.value}, {seconds:.2f} s", _naively(gold, answer)])
    return table(["answer", "here", "math-verify in a thread, as trainers call it"], rows)


def _naively(gold: str, answer: str, patience: float = 20.0) -> str:
    """In a thread, where its own alarm cannot ring and has to be off; in a process, since nothing else could stop it."""
    program = (
        "import threading, time\nfrom math_verify import parse, verify\n"
        "def read(x): return parse('$' + x + '$', parsing_timeout=None)\n"
        f"def run(): print(verify(read({gold!r}), read({answer!r}), timeout_seconds=None))\n"
        "t = time.perf_counter(); w = threading.Thread(target=run); w.start(); w.join(); print(time.perf_counter() - t)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=patience + 15
        )
    except subprocess.TimeoutExpired:
        return f"still busy after {patience:.0f} s, stopped"
    said = done.stdout.split()
    if len(said) == 2:
        return f"{said[0]}, {float(said[1]):.2f} s"
    last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer"
    return f"no verdict: {last[:80]}"


def _run(bench: Bench) -> str:
    count = 64 if bench.quick else 1024
    return "\n\n".join([programs(bench.rounds), answers(bench.rounds, count), hostile()])


BENCHMARK = Benchmark("verification", "Verification", _run)
