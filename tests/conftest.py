"""What more than one directory of tests needs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.clones import fresh_clone, run


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` alone, with no server, ran the smoke profile."""
    clone = fresh_clone(tmp_path_factory.mktemp("repro") / "clone")
    assert run(clone, sys.executable, "-m", "tasks.configure", "--profile", "smoke").returncode == 0
    assert run(clone, "dvc", "repro").returncode == 0
    return clone


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fault and attack tests counted (README quotes it): `record_property("count: <what>", number)`, summed."""
    totals: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name.startswith("count: "):
                totals[name.removeprefix("count: ")] += value
        if report.when == "call" and "tests/faults/" in report.nodeid:
            totals["fault tests passed"] += 1
    for what, number in sorted(totals.items()):
        terminalreporter.write_line(f"{number:>9,} {what}")
