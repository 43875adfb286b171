"""The mutation run, which CI does not make: that it could begin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.mutation.runner import copied_tree

ROOT = Path(__file__).resolve().parents[3]


def test_the_unit_tests_begin_in_the_copy_that_is_mutated() -> None:
    """It has no git, and pytest loads two plugins there."""
    plugins = ["-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin"]
    with copied_tree(ROOT) as tree:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", *plugins, "tests/unit/algorithms"],
            cwd=tree.root,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(tree.root),
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_mutant_whose_end_waits_for_a_thread_is_late_at_once(tmp_path: Path) -> None:
    """Raising in the test would not be enough: the pool's `with` waits for a thread that waits for ever."""
    (tmp_path / "test_hangs.py").write_text(
        "import threading\nfrom concurrent.futures import ThreadPoolExecutor\n\n"
        "def test_it():\n    with ThreadPoolExecutor(1) as pool:\n        pool.submit(threading.Event().wait).result()\n",
        encoding="utf-8",
    )
    program = (
        "from pathlib import Path; from benchmarks.mutation.runner import Tree; "
        f"print(Tree(Path({str(tmp_path)!r})).fate(['test_hangs.py'], 1.0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.stdout.strip() == "timeout", done.stderr[-2000:]
