"""Content hashes depend on content and relative names, and on nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline_lib.errors import DataError
from pipeline_lib.storage.hash import hash_bytes, hash_directory, hash_file, hash_path


def _tree(root: Path) -> Path:
    (root / "deep").mkdir(parents=True)
    (root / "b.txt").write_text("b")
    (root / "deep" / "a.txt").write_text("a")
    return root


def test_a_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    assert hash_file(tmp_path / "x") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert hash_bytes(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_two_places_with_the_same_content_agree(tmp_path: Path) -> None:
    one, two = _tree(tmp_path / "one"), _tree(tmp_path / "elsewhere" / "two")
    os.utime(two / "b.txt", (1, 1))
    (two / "b.txt").chmod(0o600)
    assert hash_directory(one) == hash_directory(two) == hash_path(two)


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_any_change_changes_the_hash(tmp_path: Path, change: str) -> None:
    tree = _tree(tmp_path / "tree")
    before = hash_directory(tree)
    if change == "content":
        (tree / "b.txt").write_text("B")
    elif change == "name":
        (tree / "b.txt").rename(tree / "c.txt")
    else:
        (tree / "c.txt").write_text("")
    assert hash_directory(tree) != before


def test_nothing_has_no_hash(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        hash_directory(tmp_path / "nope")
    with pytest.raises(DataError, match="empty"):
        hash_directory(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        hash_file(tmp_path / "nope")
