"""Is what lies in the worktree what dvc.lock says? Asked after a stage has run, and by a stage of what it is about to read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline_lib.errors import StorageError
from pipeline_lib.orchestration.graph import load_graph
from pipeline_lib.orchestration.remote_settings import REMOTE_ENV
from pipeline_lib.storage.dvc_cache import evict_damaged
from pipeline_lib.tracking.outputs import content_hash, locked_hashes, locked_stages


def differing_outputs(root: Path, address: str) -> dict[str, str]:
    """Outputs of a stage whose bytes are not those of dvc.lock: path -> the hash that dvc.lock has."""
    entry = locked_stages(root).get(address) or {}
    outs = {out["path"].rstrip("/"): out["md5"] for out in entry.get("outs") or () if "md5" in out}
    return {path: md5 for path, md5 in outs.items() if content_hash(root / path) != md5}


def refuse_damaged_inputs(root: Path, stage: str, item: str | None) -> None:
    """Raise StorageError when the stage would read a file that a damaged DVC cache put there.

    The damaged objects are removed, and what was made of them in the worktree: nobody reads it later, and the next `dvc repro`
    makes it anew. With a remote a retry fetches it whole, so the error's exit code allows one. A file that somebody edited on
    purpose, with a sound object in the cache, is none of this function's business.
    """
    if not (root / "dvc.yaml").is_file():
        return
    graph = load_graph(root)
    if stage not in graph.names:
        return
    locked = locked_hashes(root)
    deps = [dep.replace("*", item or "*") for dep in graph[stage].deps]
    wrong = {
        dep: locked[dep]
        for dep in deps
        if dep in locked and (root / dep).exists() and content_hash(root / dep) != locked[dep]
    }
    damaged = {dep: removed for dep, md5 in wrong.items() if (removed := evict_damaged(root, {dep: md5}))}
    for dep in damaged:
        remove_output(root / dep)
    if damaged:
        objects = [file for removed in damaged.values() for file in removed]
        remote = bool(os.environ.get(REMOTE_ENV))
        remedy = (
            "start the stage again and they are fetched"
            if remote
            else "run `dvc repro` again, or clear the stage that writes it, and they are computed anew"
        )
        error = StorageError(
            f"{', '.join(damaged)}: not the bytes that dvc.lock names, because {len(objects)} objects of the DVC cache are damaged "
            f"({objects[0]}). They are removed; {remedy}. Check the disk."
        )
        error.exit_code = 1 if remote else StorageError.exit_code
        raise error


def remove_output(path: Path) -> None:
    """Remove a file or directory of the worktree."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
