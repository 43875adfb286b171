"""One shipper per working directory: started when there is none, found by the lock it holds."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from pipeline_lib.orchestration.processes import STAGE_MARK

LOCK = "shipper.lock"
LOG = "shipper.log"


def ensure_shipper(folder: Path) -> None:
    """Start the shipper of `folder` unless one holds its lock.

    It gets its own session, so that killing a stage's process group leaves it alive to report the death; it
    does not carry the mark by which the runner finds what an earlier attempt of a stage left behind, and it
    ends by itself when there has been nothing to deliver for a while (ship.LINGER_S).
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    finally:
        os.close(handle)
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH", "")) if part)
    with (folder / LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "pipeline_lib.tracking.ship", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder.parents[1],
            env={**{k: v for k, v in os.environ.items() if k != STAGE_MARK}, "PYTHONPATH": path},
            start_new_session=True,
        )
