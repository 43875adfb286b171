"""`python -m pipeline_lib.launch.lean deepspeed.launcher.runner <arguments>`: DeepSpeed's launcher, sooner.

Two processes stand above the ranks, the runner and the launcher that it starts. Each imports the whole of DeepSpeed to start another process; plainly
that takes twice as long as it has to (`pipeline_lib.startup`).
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from pipeline_lib.startup import import_deepspeed, quick_end

RUNNER, LAUNCHER = "deepspeed.launcher.runner", "deepspeed.launcher.launch"


def through(module: str) -> list[str]:
    """The words that come before a module's arguments."""
    return [sys.executable, "-u", "-m", "pipeline_lib.launch.lean", module]


def _start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """As the runner starts the launcher, and that through this module."""
    plainly = [sys.executable, "-u", "-m", LAUNCHER]
    if command[:4] == plainly:
        command = [*through(LAUNCHER), *command[4:]]
    return subprocess.Popen(command, **options)


def main() -> None:
    """Be the module that the first argument names, with the others."""
    name = sys.argv.pop(1)
    import_deepspeed()
    module: Any = importlib.import_module(name)
    if name == RUNNER:
        module.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _start})
    module.main()


if __name__ == "__main__":
    with quick_end():
        main()
