"""The shipper: `python -m pipeline_lib.tracking.ship [folder]` delivers the journals of one working directory.

It holds the folder's lock while it works, retries a server that is away with growing pauses, reports stages
that died without a word, and ends when nothing has happened for LINGER_S. Undelivered journals stay for the
next one.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.startup import quick_end
from pipeline_lib.tracking.journal import Journal, journals
from pipeline_lib.tracking.locations import journal_dir
from pipeline_lib.tracking.spawn import LOCK

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from pipeline_lib.tracking.deliver import Delivery

LINGER_S = float(os.environ.get("R1_MLFLOW_LINGER", "20"))
"""How long to wait for the next stage: the next one then need not import MLflow again."""
POLL_S = 0.2
MAX_PAUSE_S = 15.0
GIVE_UP_S = 60.0
"""After this long without a success, and with no stage running, leave the journals to the next shipper."""


class Shipper:
    """Delivers every journal of a folder until nothing is left to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder.resolve().parents[1]
        self.deliveries: dict[Path, Delivery] = {}
        self.clients: dict[str, MlflowClient] = {}
        self.touched: set[tuple[str, str]] = set()
        self.pause = 0.0
        self.failing_since: float | None = None

    def run(self) -> bool:
        """Work until idle for LINGER_S (or MLflow stays away); True when everything was delivered."""
        idle_since = time.monotonic()
        while self.folder.is_dir():
            worked = self._round()
            now = time.monotonic()
            if worked:
                idle_since = now
            if self.failing_since is not None:
                if now - self.failing_since > GIVE_UP_S and not self._alive():
                    break
                self.pause = min(MAX_PAUSE_S, max(0.5, 2 * self.pause))
                time.sleep(self.pause)
                continue
            self.pause = 0.0
            if now - idle_since > LINGER_S and not self._alive():
                break
            time.sleep(POLL_S)
        self._close()
        return self.failing_since is None

    def _round(self) -> bool:
        """Deliver what there is; True when something was delivered."""
        worked = failed = False
        found = journals(self.folder)
        for journal in found:
            delivery = self._delivery(journal)
            try:
                worked |= self._serve(delivery)
            except Exception as error:  # the server may answer anything; the journal keeps the event
                failed = True
                delivery.fail(error)
                print(f"{journal.path.name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        self._sweep(found)
        if not failed:
            self.failing_since = None
        elif worked or self.failing_since is None:
            self.failing_since = time.monotonic()
        return worked

    def _serve(self, delivery: Delivery) -> bool:
        if delivery.pending():
            start = delivery.start_body
            delivery.deliver(self._client(start["uri"]))
            self.touched.add((start["uri"], start["pipeline_run"]))
            return True
        if delivery.cursor.status == "RUNNING" and not delivery.alive():
            if delivery.pending():  # it wrote its last words between the two looks
                return True
            delivery.kill(self._client(delivery.start_body["uri"]))
            return True
        return False

    def _sweep(self, found: list[Journal]) -> None:
        """Delete what is delivered and can never be continued: finished runs, and older tries of a stage."""
        newest = {journal.path.stem.rpartition("+")[0]: journal.path for journal in found}
        for journal in found:
            delivery = self.deliveries[journal.path]
            superseded = newest[journal.path.stem.rpartition("+")[0]] != journal.path
            over = delivery.cursor.status == "FINISHED" or (
                superseded and delivery.cursor.status not in ("", "RUNNING")
            )
            if over and not delivery.pending():
                self.deliveries.pop(journal.path).stop()
                journal.remove()

    def _client(self, uri: str) -> MlflowClient:
        if uri not in self.clients:
            from pipeline_lib.tracking.client import open_client

            self.clients[uri] = open_client(uri, self.root)
        return self.clients[uri]

    def _delivery(self, journal: Journal) -> Delivery:
        if journal.path not in self.deliveries:
            from pipeline_lib.tracking.deliver import Delivery

            self.deliveries[journal.path] = Delivery(journal, self.root)
        return self.deliveries[journal.path]

    def _alive(self) -> bool:
        return any(
            delivery.alive()
            for delivery in self.deliveries.values()
            if delivery.cursor.status in ("", "RUNNING")
        )

    def _close(self) -> None:
        for delivery in self.deliveries.values():
            delivery.stop()
        if self.failing_since is None:
            from pipeline_lib.tracking.deliver import close_parent

            for uri, pipeline_run in sorted(self.touched):
                close_parent(self._client(uri), pipeline_run, self.root)


def ship(folder: Path) -> bool:
    """Deliver the journals of `folder` unless another shipper does; True when nothing is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with (folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            complete = Shipper(folder).run()
        # A stage that saw the lock held wrote its event before it looked; look once more after letting go.
        if not folder.is_dir() or not complete or not any(_waiting(journal) for journal in journals(folder)):
            return complete


def _waiting(journal: Journal) -> bool:
    return next(journal.read(journal.cursor().offset), None) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description="Deliver this worktree's MLflow journals.")
    parser.add_argument("folder", nargs="?", type=Path, default=None, help="default: .run/mlflow here")
    arguments = parser.parse_args()
    return 0 if ship(arguments.folder or journal_dir()) else 1


if __name__ == "__main__":
    with quick_end():
        sys.exit(main())
