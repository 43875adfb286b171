"""Content hashes: what names a data set or a model in MLflow, in a lineage and in a checkpoint key.

A directory's hash covers the relative path and the bytes of every file in it, and nothing else: no times, no
permissions, no absolute path. Two machines with the same content agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.errors import DataError

_CHUNK = 1 << 20


def hash_bytes(content: bytes) -> str:
    """SHA-256 of bytes, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits. Raises DataError when there is no such file."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return digest.hexdigest()


def hash_directory(path: Path) -> str:
    """SHA-256 over the sorted (relative path, file hash) pairs below `path`; links are followed.

    Raises DataError when `path` is no directory or holds no file: the hash of nothing would name anything.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such directory.")
    files = [file for file in path.rglob("*") if file.is_file()]
    if not files:
        raise DataError(f"{path}: the directory is empty.")
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.relative_to(path).as_posix()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{hash_file(file)}\n".encode())
    return digest.hexdigest()


def hash_path(path: Path) -> str:
    """`hash_directory` of a directory, `hash_file` of anything else."""
    return hash_directory(path) if Path(path).is_dir() else hash_file(path)


def hash_code(names: Sequence[str]) -> str:
    """Hash of the sources of these modules and packages below pipeline_lib/: what decides the bytes of some output."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for name in names:
        target = package / name
        for file in sorted(target.rglob("*.py")) if target.is_dir() else [target]:
            digest.update(f"{file.relative_to(package)}={hash_file(file)}\n".encode())
    return digest.hexdigest()
