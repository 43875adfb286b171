"""Content hashes of a stage's outputs, in DVC's own terms, so that dvc.lock and MLflow name the same thing.

DVC hashes a file by the md5 of its bytes and a directory by the md5 of a JSON list of its files
(`<md5>.dir`, dvc_data/hashfile/tree.py). Doing the same here lets a stage tag its MLflow run with what
dvc.lock will say a moment later, and lets anyone with a dvc.lock find the run that computed it. md5 names
content here; nothing depends on its being hard to forge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.errors import DataError
from pipeline_lib.tracking.locations import link_name


def content_hash(path: Path) -> str:
    """Return DVC's hash of a file (32 hex digits) or directory (32 hex digits and `.dir`).

    Raises DataError when `path` does not exist.
    """
    if path.is_dir():
        entries = [
            {"md5": _file_md5(file), "relpath": file.relative_to(path).as_posix()}
            for file in path.rglob("*")
            if file.is_file()
        ]
        entries.sort(key=lambda entry: entry["relpath"])
        return (
            hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
            + ".dir"
        )
    if not path.is_file():
        raise DataError(f"{path}: does not exist, so it has no content hash; run the stage that writes it")
    return _file_md5(path)


def combine_hashes(hashes: Mapping[str, str]) -> str:
    """Return one hash (32 hex digits) of `path -> content hash`: the output hash of a stage."""
    text = "".join(f"{path}\0{hashes[path]}\n" for path in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def output_hash(paths: Iterable[Path], root: Path) -> str:
    """Return the output hash of a stage that just wrote `paths` (absolute or relative to `root`)."""
    hashes = {}
    for path in paths:
        full = path if path.is_absolute() else root / path
        hashes[full.relative_to(root).as_posix()] = content_hash(full)
    return combine_hashes(hashes)


def declared_outputs(stage: str, item: str | None, root: Path) -> tuple[Path, ...]:
    """Return what `root/dvc.yaml` says the stage writes; empty when there is no dvc.yaml or no such stage."""
    if not (root / "dvc.yaml").is_file():
        return ()
    from pipeline_lib.orchestration.graph import load_graph

    graph = load_graph(root)
    if stage not in graph.names:
        return ()
    return tuple(Path(out.replace("*", item or "*")) for out in graph[stage].outs)


def locked_output_hash(stage: str, item: str | None, root: Path) -> str | None:
    """Return the output hash of a stage as `root/dvc.lock` records it; None when it was never run."""
    entry = locked_stages(root).get(link_name(stage, item))
    if not entry or not entry.get("outs"):
        return None
    return combine_hashes({out["path"].rstrip("/"): out["md5"] for out in entry["outs"]})


def locked_hashes(root: Path) -> dict[str, str]:
    """Return `path -> md5` of every output that `root/dvc.lock` records."""
    return {
        out["path"].rstrip("/"): out["md5"]
        for entry in locked_stages(root).values()
        for out in entry.get("outs") or ()
        if "md5" in out
    }


def locked_stages(root: Path) -> Mapping[str, Any]:
    """Return the `stages` mapping of `root/dvc.lock`; an absent file is an empty one."""
    path = root / "dvc.lock"
    if not path.is_file():
        return {}
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}
    return document.get("stages") or {}


def _file_md5(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
