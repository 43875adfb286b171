"""`make mutation`: what share of the mutants of the algorithms and the rewards the unit tests kill.

Prints a table, and every survivor in the form in which docs/mutation.md explains survivors. Exits 1 when a package's share is
below 90 %, when a survivor is not explained there, or when an explained one no longer survives (whole runs only).

    make mutation                                             both packages
    make mutation ARGS='--only pipeline_lib/algorithms'       one package or one file
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.mutation.page import explained, row_of, table
from benchmarks.mutation.runner import Fate, Tree, copied_tree, warm_up

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "pipeline_lib/algorithms": "tests/unit/algorithms",
    "pipeline_lib/rewards": "tests/unit/rewards",
}
GOAL = 0.9


def main() -> int:
    """Run; the exit status says whether the goal is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=list(TESTS), help="packages or files; default: both packages"
    )
    parser.add_argument("--python", default=".run/mutation/bin/python", help="the Python that has Cosmic Ray")
    parser.add_argument("--results", default=".run/mutation/results.jsonl", help="one line a mutant")
    parser.add_argument(
        "--quick", action="store_true",
        help="only the tests that name the file: kills fewer, so its share is a lower bound; explanations are not compared",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true",
        help="trust the results file where it says killed (true while tests are only added); test the rest",
    )  # fmt: skip
    options = parser.parse_args()
    if os.nice(0) == 0:  # somebody who said how nice it should be knows better
        os.nice(19)
    files = [
        path.relative_to(ROOT).as_posix()
        for package in TESTS
        for path in sorted((ROOT / package).glob("*.py"))
        if path.relative_to(ROOT).as_posix().startswith(tuple(options.only))
    ]
    if not files:
        parser.error(f"--only {options.only}: no file of {', '.join(TESTS)} begins like that")
    mutants = _mutants(options.python, files)
    warm_up(with_torch=any("algorithms" in file for file in files))
    started = time.monotonic()
    fates: dict[str, Counter[Fate]] = {file: Counter() for file in files}
    survivors: list[str] = []
    known = _killed_before(Path(options.results)) if options.resume else {}
    with (
        copied_tree(ROOT) as tree,
        open(options.results, "a" if options.resume else "w", encoding="utf-8") as results,
    ):
        order, patience = _prove_the_set_up(tree, files, quick=options.quick)
        for mutant in mutants:
            file, text = mutant["file"], mutant.pop("text")
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            if not (fate := known.get(key)):
                with tree.changed(file, text):
                    fate = tree.fate(order[file], patience)
                results.write(json.dumps({**mutant, "key": key, "fate": fate}) + "\n")
                results.flush()
            fates[file][fate] += 1
            if fate is Fate.SURVIVED:
                survivors.append(row_of(mutant))
                print(survivors[-1], flush=True)
    print(table(fates))
    print(
        f"{sum(c.total() for c in fates.values())} mutants in {(time.monotonic() - started) / 60:.0f} minutes"
    )
    return int(
        _below_the_goal(fates) or (not options.quick and _differs_from_the_page(options.only, survivors))
    )


def _killed_before(results: Path) -> dict[str, Fate]:
    if not results.is_file():
        return {}
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return {row["key"]: Fate(row["fate"]) for row in rows if row["fate"] != Fate.SURVIVED}


def _mutants(python: str, files: list[str]) -> list[dict]:
    if not Path(python).is_file():
        raise SystemExit(f"{python} does not exist: `make mutation` makes it (requirements/mutation.txt)")
    script = ROOT / "benchmarks" / "mutation" / "mutants.py"
    done = subprocess.run([python, script, *files], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _prove_the_set_up(tree: Tree, files: list[str], *, quick: bool) -> tuple[dict[str, list[str]], float]:
    """For each file the tests that import it (those that name it first, then the quick ones), and a test's time limit.

    Every test must pass on the untouched tree, and no file may raise on import without a test that notices.
    """
    modules = {file: file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}
    folders = {TESTS[package] for package in TESTS if any(file.startswith(package) for file in files)}
    paths = [path for folder in folders for path in (ROOT / folder).glob("test_*.py")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    seconds: dict[str, float] = {}
    imported: dict[str, set[str]] = {}
    for test, text in texts.items():
        if quick and not any(module in text for module in modules.values()):
            continue
        began = time.monotonic()
        if tree.fate([test], imported=imported.setdefault(test, set())) is not Fate.SURVIVED:
            raise SystemExit(f"{test} fails without any mutant: repair it first")
        seconds[test] = time.monotonic() - began
    order: dict[str, list[str]] = {}
    for file, module in modules.items():
        named = {test for test in imported if module in texts[test]}
        users = named if quick and named else {test for test in imported if module in imported[test]}
        order[file] = sorted(users, key=lambda test: (test not in named, seconds[test]))
        with tree.changed(file, 'raise RuntimeError("a mutant that every test must see")\n'):
            if not users or tree.fate(order[file]) is Fate.SURVIVED:
                raise SystemExit(
                    f"no test notices that {file} cannot be imported: its mutants would not be seen"
                )
    return order, 20 + 5 * max(seconds.values())


def _below_the_goal(fates: dict[str, Counter[Fate]]) -> bool:
    below = False
    for package in TESTS:
        counts = sum((c for file, c in fates.items() if file.startswith(package)), Counter())
        if counts and counts[Fate.SURVIVED] > (1 - GOAL) * counts.total():
            print(f"{package}: fewer than {GOAL:.0%} are killed", file=sys.stderr)
            below = True
    return below


def _differs_from_the_page(only: list[str], survivors: list[str]) -> bool:
    rows = explained(ROOT / "docs" / "mutation.md")
    known = {row for row in rows if row.removeprefix("| ").startswith(tuple(only))}
    for row in sorted(set(survivors) - known):
        print(f"not explained in docs/mutation.md: {row}", file=sys.stderr)
    for row in sorted(known - set(survivors)):
        print(f"explained in docs/mutation.md but killed now: {row}", file=sys.stderr)
    return known != set(survivors)


if __name__ == "__main__":
    raise SystemExit(main())
