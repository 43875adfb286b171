"""docs/proofs.md points at tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "proofs.md").read_text(encoding="utf-8")
TARGET = re.compile(r"`(tests/[\w/]+\.py):(\w+)`")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promise |")]


@pytest.mark.parametrize(("file", "name"), sorted(set(TARGET.findall(PAGE))))
def test_named_test_exists(file, name):
    assert (ROOT / file).is_file(), f"{file} does not exist"
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name.startswith("test_")
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
        f"{file} has no {name}"
    )


def test_every_promise_names_a_test():
    assert len(ROWS) > 30
    for row in ROWS:
        named = TARGET.findall(row)
        assert named, row
        assert len(named) == row.count("`") // 2, f"a target that this test cannot read: {row}"
