"""Checkpoints that survive a kill at any instant, and a resume that is exact (design §5).

A checkpoint is a directory `step-<n>`: DeepSpeed's shards, one file per rank, what rank 0 knows, and a manifest
with the hash of every file. It is written under a temporary name, fsynced and renamed; the one before is kept.
Loading verifies every hash; a damaged one is reported and the previous one is used.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline_lib.errors import DataError
from pipeline_lib.storage.atomic import FULL, disk_full_error
from pipeline_lib.storage.hash import hash_file
from pipeline_lib.training.distributed import Engine, World
from pipeline_lib.training.only_tensors import only_tensors

KEEP = 2
MANIFEST = "manifest.json"
TORCH_WRITER = "inline_container.cc"
"""In the RuntimeErrors that torch's zip writer makes of "no space"; it keeps no errno."""


class CheckpointStore:
    """The checkpoints of one job. Every rank holds one and calls every method together with the others."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world

    def save(
        self, step: int, engines: Mapping[str, Engine], state: Mapping[str, Any], tensors: Mapping[str, Any]
    ) -> None:
        """Write the checkpoint of `step`.

        `engines`: trained models by name; `state`: JSON values that rank 0 knows; `tensors`: torch-saveable
        values of rank 0 (the reference model). StorageError when the disk is full; the previous one stays.
        """
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".partial-{step:08d}"
        if self.world.is_first:
            for left in self.folder.glob(".partial-*"):
                shutil.rmtree(left)
            partial.mkdir(parents=True)
        self.world.barrier()
        try:
            for name, engine in engines.items():
                engine.save(partial / name)
            torch.save({"torch": torch.get_rng_state()}, partial / f"rank-{self.world.rank}.pt")
            self.world.barrier()
            if self.world.is_first:
                torch.save(dict(tensors), partial / "tensors.pt")
                (partial / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
                _seal(partial)
                shutil.rmtree(final, ignore_errors=True)
                partial.rename(final)
                _fsync(self.folder)
                for old in self._steps()[:-KEEP]:
                    shutil.rmtree(old)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError):
                if TORCH_WRITER not in str(error):
                    raise
                error = OSError(errno.ENOSPC, str(error))
            if error.errno not in FULL:
                raise
            raise disk_full_error(final, error, None) from error
        self.world.barrier()

    def load(self, engines: Mapping[str, Engine]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Restore the newest sound checkpoint: (state, tensors), or None when there is none.

        DataError where a file of it holds more than tensors and plain values.
        """
        chosen = self.world.gather(self._newest_sound() if self.world.is_first else None)[0]
        if chosen is None:
            return None
        with only_tensors(chosen):
            for name, engine in engines.items():
                engine.load(chosen / name)
            random = torch.load(chosen / f"rank-{self.world.rank}.pt", weights_only=True)["torch"]
            # Rank 0's: from its device each rank would else load them into that device's memory.
            tensors = torch.load(chosen / "tensors.pt", weights_only=True, map_location="cpu")
        torch.set_rng_state(random)
        return json.loads((chosen / "state.json").read_text(encoding="utf-8")), tensors

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _newest_sound(self) -> Path | None:
        for folder in reversed(self._steps()):
            try:
                verify(folder)
            except DataError as error:
                print(f"warning: {error}; using the checkpoint before it", file=sys.stderr)
                continue
            return folder
        return None


def verify(folder: Path) -> None:
    """Check every file of a checkpoint against the manifest; DataError names the first that differs."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: the checkpoint has no readable manifest") from error
    for name, digest in manifest.items():
        if not (folder / name).is_file() or hash_file(folder / name) != digest:
            raise DataError(f"{folder}: the checkpoint's {name} is damaged or missing")


def _seal(folder: Path) -> None:
    """Hash and fsync every file, write the manifest, fsync the directories."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    manifest = {file.relative_to(folder).as_posix(): hash_file(file) for file in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, sort_keys=True, indent=1), encoding="utf-8")
    for path in [*files, folder / MANIFEST, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
