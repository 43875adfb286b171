"""An append-only file of events: what a stage has to tell MLflow, on disk before anything is sent.

One JSON object a line; a line is written by one `write` on a descriptor opened for appending, so a stage and
the job it started may share a journal. A line torn by `kill -9` is closed by the next writer and skipped by
the reader. Beside the journal, `<name>.spool/` holds the files to upload (they may be gone from their place by
the time they are sent) and `<name>.cursor` what the shipper has delivered.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".journal"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a journal."""

    kind: str
    """start, metrics, dataset, artifact, tags or end."""
    time_ms: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the shipper has come with a journal."""

    offset: int = 0
    """Bytes delivered."""
    run_id: str = ""
    experiment_id: str = ""
    adopted: bool = False
    """The run holds steps that are not in this journal: it was found in MLflow, where another journal had put it."""
    status: str = ""
    """The run's status in MLflow as last set: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED; empty before it exists."""
    error: str = ""
    """Why the last delivery failed; empty when it did not."""


class Journal:
    """A journal on disk. Opening it creates nothing; the first `append` does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._logged: dict[str, set[int]] | None = None

    @property
    def spool(self) -> Path:
        """Directory of files waiting to be uploaded."""
        return self.path.with_suffix(".spool")

    def append(self, kind: str, body: Mapping[str, Any]) -> None:
        """Write one event; it is on its way to the disk when this returns."""
        line = (
            json.dumps({"kind": kind, "time_ms": time.time_ns() // 1_000_000, **body}, sort_keys=True) + "\n"
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, (b"\n" if torn else b"") + line.encode())
        finally:
            os.close(handle)

    def append_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Write the metrics that this journal does not hold yet at this step.

        A job resumed from a checkpoint replays the steps after it; MLflow would keep both copies.
        Values without a step are kept always: they are logged once, at the end.
        """
        if step is not None:
            logged = self.logged_steps()
            metrics = {key: value for key, value in metrics.items() if step not in logged.get(key, ())}
            for key in metrics:
                logged.setdefault(key, set()).add(step)
        if metrics:
            self.append(
                "metrics", {"step": step, "metrics": {key: float(value) for key, value in metrics.items()}}
            )

    def logged_steps(self) -> dict[str, set[int]]:
        """Return metric key -> steps already in the journal, read once from the disk."""
        if self._logged is None:
            self._logged = {}
            for event, _ in self.read(0):
                if event.kind == "metrics" and event.body["step"] is not None:
                    for key in event.body["metrics"]:
                        self._logged.setdefault(key, set()).add(event.body["step"])
        return self._logged

    def keep(self, source: Path) -> Path:
        """Copy a file or directory into the spool and return the copy."""
        target = self.spool / uuid.uuid4().hex / source.name
        target.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
        return target

    def read(self, offset: int) -> Iterator[tuple[Event, int]]:
        """Yield the events after byte `offset`, each with the offset behind it; unfinished lines wait."""
        if not self.path.exists():
            return
        with self.path.open("rb") as handle:
            handle.seek(offset)
            for line in handle:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                event = _parse(line)
                if event is not None:
                    yield event, offset

    def events(self) -> list[Event]:
        """Return every event of the journal."""
        return [event for event, _ in self.read(0)]

    def size(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cursor(self) -> Cursor:
        """Return what the shipper last said about this journal."""
        try:
            return Cursor(**json.loads(self.path.with_suffix(".cursor").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Cursor()

    def write_cursor(self, cursor: Cursor) -> None:
        """Replace the cursor, whole or not at all."""
        target = self.path.with_suffix(".cursor")
        temporary = target.with_suffix(".cursor.part")
        temporary.write_text(
            json.dumps({name: getattr(cursor, name) for name in Cursor.__slots__}, sort_keys=True),
            encoding="utf-8",
        )
        temporary.replace(target)

    def remove(self) -> None:
        """Delete the journal with its spool and cursor."""
        shutil.rmtree(self.spool, ignore_errors=True)
        for path in (self.path, self.path.with_suffix(".cursor")):
            path.unlink(missing_ok=True)


def _parse(line: bytes) -> Event | None:
    """Return the event of a line, or None for one that `kill -9` tore."""
    try:
        body = json.loads(line)
    except ValueError:
        return None
    if not isinstance(body, dict) or "kind" not in body:
        return None
    return Event(body.pop("kind"), body.pop("time_ms"), body)


def journals(folder: Path) -> list[Journal]:
    """Return the journals in `folder`, oldest first."""
    paths = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stem.rpartition("+")[2])
    return [Journal(path) for path in paths]
