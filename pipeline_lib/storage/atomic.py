"""Write a file whole or not at all, and say so plainly when the disk is full.

A temporary name in the same directory, fsync, rename: a reader (or DVC) never sees half a file, and a
failed write leaves what was there before. Design §5 asks the same of checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a full disk; everything else (a network file system that is away) may pass."""


def _human(size: int) -> str:
    """A size a person reads: 1536 -> '1.5 KiB'."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def disk_full_error(path: Path, error: OSError, needed: int | None) -> StorageError:
    """The one line for a full disk: the file, what it needs (bytes, where known) and what is free."""
    where = path.parent if path.parent.exists() else Path(".")
    free = shutil.disk_usage(where).free
    need = f"needs about {_human(needed)}" if needed is not None else "needs more than is left"
    limit = " (a file-size limit is set: see `ulimit -f`)" if error.errno == errno.EFBIG else ""
    return StorageError(
        f"{path}: the disk is full{limit}: it {need}, {_human(free)} free in {where}. Nothing was written and "
        "the previous file is kept: free some space (`dvc gc` drops unused outputs) and start again."
    )


@contextlib.contextmanager
def atomic_path(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and becomes `path`.

    `needed`: expected size in bytes, for the message of a full disk. Raises StorageError when the disk is full
    or the directory cannot be written; any other exception passes unchanged. The temporary file never survives.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full_error(path, error, needed) from error
        raise StorageError(f"{path}: cannot be written ({error.strerror}). Check the directory.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno in FULL:
            temporary.unlink(missing_ok=True)
            raise disk_full_error(path, error, needed) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all."""
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace `path` by sorted, indented JSON: the same value always gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def _umask() -> int:
    """The process umask. Reading it means setting it, so it is set back at once."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
