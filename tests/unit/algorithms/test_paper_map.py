"""docs/paper_map.md points at things that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8")
TARGET = re.compile(r"`([\w./-]+\.(?:py|yaml)):([\w.]+)`")
TARGETS = sorted(set(TARGET.findall(PAGE)))


def _names(tree: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
    return found


@pytest.mark.parametrize(("file", "name"), TARGETS)
def test_target_exists(file, name):
    path = ROOT / file
    assert path.is_file(), f"{file} does not exist"
    if path.suffix == ".yaml":
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in name.split("."):
            assert isinstance(node, dict), f"{file} has no {name}"
            assert key in node, f"{file} has no {name}"
            node = node[key]
        return
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        names = _names(tree)
        assert part in names, f"{file} defines no {name}"
        tree = names[part]


def test_every_row_has_a_target():
    rows = [
        line
        for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| what", "| stage |", "| item |"))
    ]
    assert len(rows) > 50
    for row in rows:
        assert TARGET.search(row), row


def test_every_algorithm_file_is_on_the_page():
    for file in (ROOT / "pipeline_lib" / "algorithms").glob("*.py"):
        helper = file.stem in ("__init__", "masks", "policy", "surrogate")
        assert helper or f"algorithms/{file.name}" in PAGE, file.name
