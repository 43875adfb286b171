"""What more than one directory of tests needs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from pipeline_lib.startup import wait_briefly
from tests.clones import COMMIT, ROOT, fresh_clone, run

wait_briefly()  # the tests' own processes share the cores, too

SERVICES = {"test_airflow_runs.py", "test_browser_trigger.py", "test_trigger_form.py"}
"""Files whose tests share one set of running services (tests/integration/conftest.py)."""


class _ByFile(LoadScopeScheduling):
    """The tests of a file, and all of SERVICES, on one worker of pytest-xdist. (Its own groups are lost with pytest 9.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "services" if Path(file).name in SERVICES else file


def pytest_configure(config: pytest.Config) -> None:
    """Note what is tested, once for all workers, which inherit it. (A copy without git, as the mutation run makes, has no clones.)"""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        os.environ.setdefault(COMMIT, head.stdout.strip())


@pytest.hookimpl(optionalhook=True)  # the mutation run does without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByFile:
    """Who runs what under `-n`."""
    return _ByFile(config, log)


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A clone in which `dvc repro` alone, with no server, ran the smoke profile: made once for all workers."""
    base = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    clone, done = base / "reproduced", base / "reproduced.done"
    with (base / "reproduced.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(clone, ignore_errors=True)
            fresh_clone(clone)
            assert run(clone, sys.executable, "-m", "tasks.configure", "--profile", "smoke").returncode == 0
            assert run(clone, "dvc", "repro").returncode == 0
            done.touch()
    return clone


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the fault and attack tests counted (README quotes it): `record_property("count: <what>", number)`, summed."""
    totals: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name.startswith("count: "):
                totals[name.removeprefix("count: ")] += value
        if report.when == "call" and report.nodeid.startswith("tests/faults/"):
            totals["fault tests passed"] += 1
    for what, number in sorted(totals.items()):
        terminalreporter.write_line(f"{number:>9,} {what}")
