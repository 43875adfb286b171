"""Objects of the DVC cache whose bytes are no longer what their name says.

DVC trusts an object that is there: a stage whose output it holds is linked to it, even when the stage has just been
computed anew. So a disk that rots, or a hand that edits through a link, would be handed on as the output that dvc.lock names.
Whoever finds a file that differs from dvc.lock asks here, and the damaged objects go: what is computed next is stored again.
"""

from __future__ import annotations

import configparser
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path


def cache_dir(root: Path) -> Path:
    """Return what `dvc cache dir` would say in `root`, read from DVC's four settings files, the last one winning.

    Asking dvc itself costs 1.5 s of CPU in every run.
    """
    settings = (
        Path("/etc/xdg/dvc/config"),
        Path.home() / ".config/dvc/config",
        root / ".dvc/config",
        root / ".dvc/config.local",
    )
    found = root / ".dvc" / "cache"
    for file in settings:
        config = configparser.ConfigParser(interpolation=None)
        config.read(file, encoding="utf-8")
        if config.has_option("cache", "dir"):
            found = file.parent / config.get("cache", "dir")
    return found.resolve()


def evict_damaged(root: Path, outputs: Mapping[str, str]) -> list[Path]:
    """Remove the damaged ones among the cache objects of these outputs (path -> DVC hash); return them."""
    removed = []
    for digest in outputs.values():
        for file in _objects(cache_dir(root) / "files" / "md5", digest):
            if file.is_file() and _md5(file) != file.parent.name + file.name.removesuffix(".dir"):
                file.unlink()
                removed.append(file)
    return removed


def _objects(store: Path, digest: str) -> Iterator[Path]:
    """The object of a hash, and of a directory's hash those of its files too."""
    listing = store / digest[:2] / digest[2:]
    if digest.endswith(".dir") and listing.is_file():
        try:
            entries = json.loads(listing.read_bytes())
            names = [str(entry["md5"]) for entry in entries]
        except (ValueError, KeyError, TypeError):  # damaged itself: it goes, and its files are listed anew
            names = []
        yield from (store / name[:2] / name[2:] for name in names)
    yield listing


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
