"""The DVC remote that R1_REMOTE names: DVC's own layout in S3, moved object by object (decision 0016).

    s3://bucket/prefix/files/md5/ab/cdef…       a file by its MD5; `<md5>.dir` lists the files of a directory
    s3://bucket/prefix/runs/ab/<key>/<value>    one run of a stage: command, deps, parameters → outs

`dvc push` and `dvc pull` with the same address work on the same objects. Everything is named by its content, so an object that is
there need not be sent, and one that arrives is checked against its name. S3 shows an object when all of it has
arrived; a directory's list goes after its files and a run after its outs, so whoever finds a run finds all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline_lib.errors import StorageError
from pipeline_lib.orchestration.patience import for_each, patience_s
from pipeline_lib.storage import s3
from pipeline_lib.storage.atomic import write_bytes
from pipeline_lib.storage.dvc_cache import cache_dir

_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_LEFT_OUT = ("size", "nfiles")
"""What DVC leaves out of a run's name."""


def object_address(remote: str, md5: str) -> str:
    """Where an object is in a remote. StorageError when `md5` is no name of an object."""
    if not _OBJECT.fullmatch(md5):
        raise StorageError(f"{md5[:80]!r}: is not the MD5 of a file or directory")
    return f"{remote}/files/md5/{md5[:2]}/{md5[2:]}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a stage as dvc.lock and the run-cache write it."""

    entry: Mapping[str, Any]

    @property
    def key(self) -> str:
        """DVC's name for what was run: SHA-256 of command, deps, parameters and the paths of the outs."""
        return _digest({**self.entry, "outs": [out["path"] for out in self.entry.get("outs", ())]})

    @property
    def value(self) -> str:
        """DVC's name for what came of it."""
        return _digest(self.entry)

    @property
    def outs(self) -> tuple[str, ...]:
        """MD5s of what was written."""
        return tuple(out["md5"] for out in self.entry.get("outs", ()) if "md5" in out)


def run_path(key: str, value: str = "") -> str:
    """Where a run is, below a cache or a remote."""
    return f"runs/{key[:2]}/{key}/{value}"


@dataclass(frozen=True, slots=True)
class DvcRemote:
    """The remote of an address beside the cache of a checkout."""

    address: str
    cache: Path
    tell: Callable[[str], None]
    """Gets the warnings: one line for every pause while S3 is away."""

    @classmethod
    def of(cls, root: Path, address: str, tell: Callable[[str], None]) -> DvcRemote:
        """The remote beside the cache that the checkout `root` uses."""
        return cls(address, cache_dir(root), tell)

    def push(self, run: Run) -> int:
        """Send what a run wrote, then the run itself; only what is not there. Returns the number of objects sent.

        The cost is that of this run, however many the cache or the remote hold: one request for each object that is there.
        A run that is there says nothing of its objects, for a damaged one may have been removed. Raises StorageError.
        """
        target = f"{self.address}/{run_path(run.key, run.value)}"
        sent: list[str] = []

        def send(md5: str) -> None:
            uri = object_address(self.address, md5)
            if s3.size_of(uri) != self._file(md5).stat().st_size:
                s3.upload(self._checked(md5), uri)
                sent.append(md5)

        def send_run(uri: str) -> None:
            if s3.size_of(uri) is None:
                s3.write(_dump(run), uri)

        directories = [md5 for md5 in dict.fromkeys(run.outs) if md5.endswith(".dir")]
        files = [md5 for md5 in run.outs if not md5.endswith(".dir")]
        files += [md5 for directory in directories for md5 in listed(self._checked(directory))]
        self._each(list(dict.fromkeys(files)), send)
        self._each(directories, send)
        self._each([target], send_run)
        return len(sent)

    def fetch(self, md5s: Iterable[str]) -> int:
        """Bring objects, and the files of those that are directories, into the cache; returns how many came.

        Raises StorageError when one is not in the remote, or is not what its name says.
        """
        wanted = list(dict.fromkeys(md5s))
        directories = [md5 for md5 in wanted if md5.endswith(".dir")]
        # A list whose files are not all there would look whole to DVC: files go into the cache before it.
        lists = {md5: self._list_of(md5) for md5 in directories}
        files = [md5 for md5 in wanted if not md5.endswith(".dir")]
        files += [md5 for content in lists.values() for md5 in listed(content)]
        absent = [md5 for md5 in dict.fromkeys(files) if not self.path_of(md5).is_file()]
        self._each(absent, self._get)
        missing = [md5 for md5 in directories if not self.path_of(md5).is_file()]
        for md5 in missing:
            _store(self.path_of(md5), lists[md5])
        return len(absent) + len(missing)

    def fetch_runs(self, key: str) -> list[Run]:
        """Return the runs of a key: those of the cache, else those of the remote, which are put there by `keep`."""
        folder = self.cache / run_path(key)
        if folder.is_dir() and any(folder.iterdir()):
            return [_parse_run(file.read_bytes(), key, file.name) for file in sorted(folder.iterdir())]
        found: list[Run] = []

        def look(prefix: str) -> None:
            found.clear()
            for item in s3.list_objects(prefix):
                name = item.uri.key.rpartition("/")[2]
                found.append(_parse_run(s3.read(str(item.uri)), key, name))

        self._each([f"{self.address}/{run_path(key)}"], look)
        return found

    def keep(self, run: Run) -> None:
        """Put a run into the cache's run-cache, where DVC finds it."""
        path = self.cache / run_path(run.key, run.value)
        if not path.is_file():
            write_bytes(path, _dump(run))

    def _list_of(self, md5: str) -> bytes:
        path = self.path_of(md5)
        if path.is_file():
            return path.read_bytes()
        found: list[bytes] = []
        self._each([object_address(self.address, md5)], lambda uri: found.append(s3.read(uri)))
        if hashlib.md5(found[0], usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
            raise _damaged(object_address(self.address, md5))
        return found[0]

    def _get(self, md5: str) -> None:
        uri, target = object_address(self.address, md5), self.path_of(md5)

        def check(file: Path) -> None:
            if _md5(file) != md5:
                raise _damaged(uri)

        s3.download(uri, target, check)
        target.chmod(0o444)

    def _file(self, md5: str) -> Path:
        path = self.path_of(md5)
        if not path.is_file():
            raise StorageError(f"{path}: is not in the DVC cache; run the stage that writes it again")
        return path

    def _checked(self, md5: str) -> Path:
        path = self._file(md5)
        if _md5(path) != md5.removesuffix(".dir"):
            raise StorageError(
                f"{path}: is not what its name says, and is not sent; remove it and run its stage again"
            )
        return path

    def path_of(self, md5: str) -> Path:
        """Where the cache keeps an object."""
        object_address(self.address, md5)  # a name that is none never becomes a path
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def _each(self, items: Sequence[str], act: Callable[[str], None]) -> None:
        for_each(items, act, patience=patience_s(), tell=self.tell)


def listed(content: Path | bytes) -> list[str]:
    """MD5s of the files of a directory, from its list."""
    return [
        str(entry["md5"])
        for entry in json.loads(content if isinstance(content, bytes) else content.read_bytes())
    ]


def _parse_run(content: bytes, key: str, value: str) -> Run:
    """A run whose names are right: nobody's mistake in the bucket makes a stage write to other paths than its own."""
    run = Run(yaml.safe_load(content))
    if (run.key, run.value) != (key, value):
        raise StorageError(f"runs/…/{key[:12]}…/{value[:12]}…: is not what its name says; remove it")
    return run


def _dump(run: Run) -> bytes:
    return yaml.safe_dump(dict(run.entry), sort_keys=False, allow_unicode=True).encode()


def _digest(entry: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_without_sizes(entry), sort_keys=True).encode()).hexdigest()


def _without_sizes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_sizes(item) for key, item in value.items() if key not in _LEFT_OUT}
    return [_without_sizes(item) for item in value] if isinstance(value, list) else value


def _damaged(uri: str) -> StorageError:
    return StorageError(f"{uri}: is not what its name says; remove the object and run its stage again")


def _store(path: Path, content: bytes) -> None:
    write_bytes(path, content)
    path.chmod(0o444)


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
