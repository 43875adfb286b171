"""A job's checkpoints beside its disk: another node goes on where this one was stopped, or vanished.

    <remote>/checkpoints/<run>/<stage>-<content key>/step-<n>/…

While the stage runs, every checkpoint that is whole is sent, its manifest last; older ones go. The newest is brought back before the
stage starts, and the trainer verifies each of its files and continues bit for bit. When the stage is done they are removed.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from pipeline_lib.errors import StorageError
from pipeline_lib.orchestration.patience import for_each, patience_s
from pipeline_lib.storage import s3
from pipeline_lib.tracking.locations import pipeline_run

EVERY_S = 15.0
MANIFEST = "manifest.json"
"""Written last by the trainer, so a directory that has it is whole (`training.checkpoint`)."""
_STEP = re.compile(r"/(?P<job>[^/]+-[0-9a-f]{16})/(?P<step>step-\d+)/(?P<file>.+)$")


class CheckpointSync:
    """Around one stage: brings the checkpoint back, sends new ones from a thread, cleans up when the stage is done."""

    def __init__(self, root: Path, address: str, remote: str, tell: Callable[[str], None]) -> None:
        self._folder, self._address, self._tell = root / "checkpoints", address, tell
        self._base = f"{remote}/checkpoints/{pipeline_run(root)}/"
        self._sent: set[str] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        """Bring the newest checkpoint of each job of the stage back. Raises StorageError."""
        for job, steps in self._kept().items():
            newest = max((step for step, files in steps.items() if MANIFEST in files), default=None)
            if newest is not None and not (self._folder / job / newest).exists():
                self._bring(job, newest, steps[newest])
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is newest, or, after a stage that is done, remove everything."""
        self._done.set()
        self._thread.join()
        try:
            if kind is None:
                self._each([uri for steps in self._kept().values() for uri in _uris(steps)], s3.delete)
            else:
                self._send_new(patience_s())
        except StorageError as failure:
            self._tell(f"warning: {self._address}: its checkpoints are as they were in S3: {failure}")

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            try:
                self._send_new(0.0)
            except (StorageError, OSError) as error:  # the next round tries again; the last one waits
                self._tell(f"warning: {self._address}: checkpoint not sent: {error}")

    def _send_new(self, patience: float) -> None:
        for folder in self._whole():
            job, step = folder.parent.name, folder.name
            target = f"{self._base}{job}/{step}"
            if target in self._sent:
                continue
            files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)

            def send(file: Path, folder: Path = folder, target: str = target) -> None:
                s3.upload(file, f"{target}/{file.relative_to(folder).as_posix()}")

            for_each(files, send, patience=patience, tell=self._tell)
            for_each([folder / MANIFEST], send, patience=patience, tell=self._tell)
            self._sent.add(target)
            older = [
                uri
                for name, files_of in self._kept().get(job, {}).items()
                if name < step
                for uri in files_of.values()
            ]
            self._each(older, s3.delete)

    def _whole(self) -> Iterator[Path]:
        """The newest whole checkpoint of each job of the stage."""
        for job in sorted(self._folder.glob(f"{self._address}-{'[0-9a-f]' * 16}")):
            steps = sorted(step for step in job.glob("step-*") if (step / MANIFEST).is_file())
            yield from steps[-1:]

    def _kept(self) -> dict[str, dict[str, dict[str, str]]]:
        """What S3 has: job -> step -> file -> address."""
        found: dict[str, dict[str, dict[str, str]]] = {}

        def look(prefix: str) -> None:
            found.clear()
            for item in s3.list_objects(prefix):
                match = _STEP.search(str(item.uri))
                if match and match["job"][:-17] == self._address:
                    steps = found.setdefault(match["job"], {})
                    steps.setdefault(match["step"], {})[match["file"]] = str(item.uri)

        self._each([f"{self._base}{self._address}-"], look)
        return found

    def _bring(self, job: str, step: str, files: dict[str, str]) -> None:
        partial = self._folder / job / f".fetched-{step}"
        shutil.rmtree(partial, ignore_errors=True)

        def get(name: str) -> None:
            target = partial / name
            if not target.resolve().is_relative_to(partial.resolve()):
                raise StorageError(f"{files[name]}: the key leaves the checkpoint's directory")
            s3.download(files[name], target)

        self._each(list(files), get)
        partial.rename(self._folder / job / step)
        self._tell(f"{self._address}: {step} of another node fetched; going on from it")

    def _each(self, items: list[str], act: Callable[[str], None]) -> None:
        for_each(items, act, patience=patience_s(), tell=self._tell)


def _uris(steps: dict[str, dict[str, str]]) -> Iterator[str]:
    for files in steps.values():
        yield from files.values()
