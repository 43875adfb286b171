"""A local server's life ends with its trainer's: the small process between the two.

It is told on standard input what to start (JSON), starts it in a session of its own, and waits. When the trainer is
gone, by whatever signal, or asks for the end (SIGTERM), or the server has ended, everything in that session is killed
and the directory with the model's configuration is removed. That is all it does: no imports beyond the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.2
MODEL = "{model}"
"""In the command, the directory that holds the files."""
_PR_SET_PDEATHSIG = 1


class _Asked(Exception):
    """SIGTERM came."""


def main() -> int:
    """Run one server to its end.

    Input: {"parent": pid, "files": {name: text}, "command": [...], "environment": {...}, "cores": [...]}.
    """
    told = json.loads(sys.stdin.read())
    signal.signal(signal.SIGTERM, _ask)
    server: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryDirectory(prefix="rollout-server-") as folder:
        try:
            for name, text in told["files"].items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            if told["cores"]:
                os.sched_setaffinity(0, told["cores"])
            server = subprocess.Popen(
                [word.replace(MODEL, folder) for word in told["command"]],
                env={**os.environ, **told["environment"], "TMPDIR": folder},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_guard,
            )
            while server.poll() is None and os.getppid() == told["parent"]:
                time.sleep(POLL_SECONDS)
        except _Asked:
            pass
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if server is not None:
                _kill(server)
    return 0


def _kill(server: subprocess.Popen[bytes]) -> None:
    """Everything in the server's session: vLLM starts processes of its own, in the server's process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _die_with_guard() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _ask(number: int, frame: FrameType | None) -> None:
    raise _Asked


if __name__ == "__main__":
    sys.exit(main())
