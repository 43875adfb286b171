"""How a program of this checkout is started, wherever it works: in a worktree of another revision, in a project without this code."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command_of(module: str, *arguments: str) -> list[str]:
    """The command line that calls `main()` of a module of this checkout; what it returns is the exit code."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from {module} import main; sys.exit(main())"
    return [sys.executable, "-P", "-c", program, *arguments]
