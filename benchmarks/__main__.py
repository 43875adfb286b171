"""`make bench`: run benchmarks, print their tables.

    python -m benchmarks                        all but `gpu` (about an hour on two cores)
    python -m benchmarks --only trl limit       some
    python -m benchmarks --quick                one round of the smallest cases: does everything run?
    python -m benchmarks --only trl --write     also put the tables into docs/benchmarks.md

A figure is a median with its range; sides of a comparison take turns within one run. Use an idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import tempfile
import time
from pathlib import Path

import benchmarks
from benchmarks._bench import Bench, Benchmark
from benchmarks._measure import machine
from pipeline_lib.launch.job import TUNABLES, memory_kept

ROUNDS = 7
PAGE = Path("docs/benchmarks.md")


def find() -> dict[str, Benchmark]:
    """Every benchmark by name, in the order of the modules' names."""
    found = {}
    for info in sorted(pkgutil.iter_modules(benchmarks.__path__), key=lambda info: info.name):
        if info.name.startswith(("_", "worker_")):
            continue
        benchmark = getattr(importlib.import_module(f"benchmarks.{info.name}"), "BENCHMARK", None)
        if benchmark is not None:
            found[benchmark.name] = benchmark
    return found


def put(page: str, name: str, text: str) -> str:
    """`page` with what stands between the marks of `name` replaced. ValueError when it has no such marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"{PAGE} has no place for {name}: add {begin.strip()} and {end}")
    return before + begin + text.rstrip() + "\n" + end + after


def main() -> int:
    """Run what is asked for."""
    known = find()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everywhere = sorted(name for name in known if name != "gpu")
    parser.add_argument("--only", nargs="+", choices=sorted(known), default=everywhere, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"measurements a figure ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round of the smallest cases")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE}")
    arguments = parser.parse_args()
    if arguments.rounds < 5 and arguments.write:
        parser.error("--write wants --rounds 5 or more")
    # Read when a process starts: what is measured in this one starts as a job does.
    if TUNABLES not in os.environ:
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, **memory_kept()})
    for name in arguments.only:
        began = time.monotonic()
        line = machine()
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rounds = 1 if arguments.quick else arguments.rounds
            try:
                text = known[name].run(Bench(Path(folder), rounds, arguments.quick))
            except RuntimeError as error:
                print(f"benchmarks: {name}: {error}", file=sys.stderr)
                return 1
        minutes = (time.monotonic() - began) / 60
        text += f"\n\n`python -m benchmarks --only {name}`, {minutes:.0f} min. {line}."
        print(f"\n## {known[name].title}\n\n{text}\n", flush=True)
        if arguments.write and not arguments.quick:
            PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")
            print(f"written to {PAGE}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
