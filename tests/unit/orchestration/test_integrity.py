"""A stage refuses what a damaged cache put before it, and nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipeline_lib.errors import StorageError
from pipeline_lib.orchestration.integrity import refuse_damaged_inputs
from pipeline_lib.storage.dvc_cache import cache_dir, evict_damaged

WEIGHTS = b"weights"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    """models/base/w (a directory out) in the cache, in dvc.lock and in the worktree."""
    listing = json.dumps([{"md5": _md5(WEIGHTS), "relpath": "w"}]).encode()
    digest = _md5(listing) + ".dir"
    (tmp_path / "params.yaml").write_text("{}")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  prepare: {cmd: x, outs: [models/base]}\n  train: {cmd: x, deps: [models/base], outs: [models/r1]}\n"
    )
    (tmp_path / "dvc.lock").write_text(
        json.dumps({"stages": {"prepare": {"outs": [{"path": "models/base", "md5": digest}]}}})
    )
    for name, content in ((digest, listing), (_md5(WEIGHTS), WEIGHTS)):
        stored = cache_dir(tmp_path) / "files/md5" / name[:2] / name[2:]
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(content)
    (tmp_path / "models/base").mkdir(parents=True)
    (tmp_path / "models/base/w").write_bytes(WEIGHTS)
    return tmp_path


def _object(root: Path, content: bytes) -> Path:
    name = _md5(content)
    return cache_dir(root) / "files/md5" / name[:2] / name[2:]


def test_sound_inputs_pass(worktree: Path) -> None:
    refuse_damaged_inputs(worktree, "train", None)
    assert _object(worktree, WEIGHTS).exists()


def test_a_rotten_object_is_refused_named_and_removed(worktree: Path) -> None:
    _object(worktree, WEIGHTS).write_bytes(b"rotten!")
    (worktree / "models/base/w").write_bytes(b"rotten!")
    with pytest.raises(
        StorageError, match=r"models/base: not the bytes that dvc.lock names.*dvc repro"
    ) as refused:
        refuse_damaged_inputs(worktree, "train", None)
    assert refused.value.exit_code == 2, "a retry would find it missing"
    assert not _object(worktree, WEIGHTS).exists()
    assert not (worktree / "models/base").exists(), (
        "a second call would find nothing wrong and let the stage read it"
    )


def test_where_a_remote_has_it_whole_a_retry_is_worth_while(worktree: Path, monkeypatch) -> None:
    monkeypatch.setenv("R1_REMOTE", "s3://bucket/prefix")
    _object(worktree, WEIGHTS).write_bytes(b"rotten!")
    (worktree / "models/base/w").write_bytes(b"rotten!")
    with pytest.raises(StorageError, match="start the stage again and they are fetched") as refused:
        refuse_damaged_inputs(worktree, "train", None)
    assert refused.value.exit_code == 1


def test_an_edited_file_with_a_sound_object_is_the_editors_business(worktree: Path) -> None:
    (worktree / "models/base/w").write_bytes(b"edited on purpose")
    refuse_damaged_inputs(worktree, "train", None)
    assert _object(worktree, WEIGHTS).read_bytes() == WEIGHTS


def test_a_damaged_listing_goes_alone(worktree: Path) -> None:
    (entry,) = json.loads((worktree / "dvc.lock").read_text())["stages"]["prepare"]["outs"]
    listing = cache_dir(worktree) / "files/md5" / entry["md5"][:2] / entry["md5"][2:]
    listing.write_bytes(b"[{")
    assert evict_damaged(worktree, {"models/base": entry["md5"]}) == [listing]


def test_the_cache_may_lie_elsewhere(worktree: Path) -> None:
    (worktree / ".dvc/config").write_text("[cache]\n    dir = ../elsewhere\n")
    assert cache_dir(worktree) == worktree / "elsewhere"
