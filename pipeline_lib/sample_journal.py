"""Sampled and judged responses on disk, so that a sampling stage can be killed at any moment and goes on.

One line of JSON is one batch: the groups of some consecutive problems. A line is written once its batch is sampled and
judged, and fsynced; nothing of it stays in memory. A kill tears at most the last line, which is cut off on opening and
its batch is sampled again. The batch is the unit, not the group, because the last bits of a log-probability depend on
which prompts share a batch: only the same batches give the same bytes (docs/decisions/0018-streaming-sampling.md).

The journal lies in checkpoints/<stage>-<content key>/: DVC deletes a stage's outputs before it runs, but not those.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline_lib.types import Outcome, Problem

FILE = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Judged:
    """A sampled response with its problem and what the verifier said."""

    problem: Problem
    text: str
    finished: bool
    outcome: Outcome


class SampleJournal:
    """The batches of one stage, in the order of its problems. Open it with `open_journal`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.batches = 0
        """How many are on disk."""
        sound = 0
        for line in self._lines():
            sound += len(line)
            self.batches += 1
        file.truncate(sound)

    def append(self, rows: Sequence[Judged]) -> None:
        """Write the next batch; it is on the disk when this returns."""
        body = [[row.problem.id, row.text, row.finished, row.outcome.value] for row in rows]
        line = json.dumps([self.batches, body], separators=(",", ":"))
        self._file.seek(0, os.SEEK_END)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.batches += 1

    def read(self, problems: Sequence[Problem]) -> Iterator[Judged]:
        """Every response so far, a batch in memory at a time; `problems` are those that were sampled."""
        by_id = {problem.id: problem for problem in problems}
        for line in self._lines():
            for identity, text, finished, outcome in json.loads(line)[1]:
                yield Judged(by_id[identity], text, finished, Outcome(outcome))

    def _lines(self) -> Iterator[bytes]:
        """The whole lines from the first on; what a kill or a lost disk cache left behind them is no line."""
        self._file.seek(0)
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n") or not line.startswith(b"[%d," % number) or not _is_json(line):
                return
            yield line


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@contextmanager
def open_journal(folder: Path, title: str) -> Iterator[SampleJournal]:
    """The journal of `folder`, held by this process alone; after success the folder is removed.

    Another process may still be sampling: the orphan of a stage whose dvc was killed. Its end is waited for.
    """
    with _locked(folder, title) as file:
        yield SampleJournal(file)
        shutil.rmtree(folder)


@contextmanager
def _locked(folder: Path, title: str) -> Iterator[BinaryIO]:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{title}: another process is sampling into {folder}; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                yield file
                return
            # The other process was done and has removed the file: begin anew.
