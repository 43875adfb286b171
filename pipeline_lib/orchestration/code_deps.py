"""The code a stage really uses, found by following its imports, and dvc.yaml held to it.

`python -m pipeline_lib.orchestration.code_deps` lists what is out of date; `--write` rewrites the code deps of
dvc.yaml. A small package of pure functions counts as one dependency (its directory); elsewhere a module
is its file. A task that starts a program names it in `RUNS`. What only watches a stage (tracking, launching, the entry point, parameters whose values DVC
tracks by themselves) cannot change an output and is left out: editing it must not retrain a model.
"""

from __future__ import annotations

import argparse
import ast
import sys
from functools import cache
from pathlib import Path

OBSERVERS = (
    "pipeline_lib.errors",
    "pipeline_lib.launch",
    "pipeline_lib.orchestration",
    "pipeline_lib.params",
    "pipeline_lib.services",
    "pipeline_lib.tracking",
    "pipeline_lib.training.job",
    "tasks._main",
)
"""Modules that cannot change what a stage writes. params.yaml spells out every field, so DVC sees the values."""

BY_DIRECTORY = (
    "algorithms",
    "data",
    "evaluation",
    "quality",
    "report",
    "rewards",
    "rollout",
    "sandbox",
    "storage",
)
"""Packages of pipeline_lib declared as a whole: their plug-ins are found by looking, not by import."""


def code_deps(stage: str, root: Path) -> list[str]:
    """Sorted paths (posix, relative to `root`) of the code that `tasks.<stage>` uses."""
    start = f"tasks.{stage}"
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module in seen or _watches(module):
            continue
        seen.add(module)
        waiting.extend(_imports(module, root))
    return sorted({_as_dep(module, root) for module in seen})


def _watches(module: str) -> bool:
    return any(module == observer or module.startswith(observer + ".") for observer in OBSERVERS)


def _as_dep(module: str, root: Path) -> str:
    parts = module.split(".")
    if parts[0] == "pipeline_lib" and len(parts) > 1 and parts[1] in BY_DIRECTORY:
        return f"pipeline_lib/{parts[1]}"
    return _file(module, root).relative_to(root).as_posix()


def _file(module: str, root: Path) -> Path:
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.is_file() else path.with_suffix(".py")


@cache
def _imports(module: str, root: Path) -> tuple[str, ...]:
    """Modules of this project that `module` imports, at the top or inside a function, type checking aside."""
    tree = ast.parse(_file(module, root).read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in _running(tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "RUNS" for t in node.targets
        ):
            names.update(ast.literal_eval(node.value))  # programs the stage starts in a process of their own
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    parents = {".".join(name.split(".")[:depth]) for name in names for depth in range(2, name.count(".") + 2)}
    return tuple(sorted(name for name in names | parents if _is_ours(name, root)))


def _running(tree: ast.AST) -> list[ast.AST]:
    """Every node but the bodies of `if TYPE_CHECKING:`."""
    nodes: list[ast.AST] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        else:
            waiting.extend(ast.iter_child_nodes(node))
    return nodes


def _is_ours(name: str, root: Path) -> bool:
    if name.split(".")[0] not in ("pipeline_lib", "tasks") or "." not in name:
        return False
    return _file(name, root).is_file()


def is_code(dep: str) -> bool:
    """True for a dependency of dvc.yaml that this module looks after."""
    return dep.startswith(("pipeline_lib/", "tasks/"))


def differences(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Stage -> (missing deps, superfluous deps) of dvc.yaml; empty when it is up to date."""
    import yaml

    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = {}
    for stage, body in stages.items():
        declared = {dep for dep in body.get("deps", []) if isinstance(dep, str) and is_code(dep)}
        wanted = set(code_deps(stage, root))
        if declared != wanted:
            found[stage] = (sorted(wanted - declared), sorted(declared - wanted))
    return found


def rewrite(root: Path) -> None:
    """Replace the code deps of every stage in dvc.yaml; comments and everything else stay."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 140
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = root / "dvc.yaml"
    tree = yaml.load(path)
    for stage, body in tree["stages"].items():
        others = [dep for dep in body.get("deps", []) if not (isinstance(dep, str) and is_code(dep))]
        body["deps"] = [*code_deps(stage, root), *others]
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)


def main() -> int:
    """Exit 1 when dvc.yaml is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite dvc.yaml")
    arguments = parser.parse_args()
    root = Path.cwd()
    if arguments.write:
        rewrite(root)
        return 0
    for stage, (missing, superfluous) in differences(root).items():
        print(f"{stage}: missing {missing}, superfluous {superfluous}", file=sys.stderr)
    return 1 if differences(root) else 0


if __name__ == "__main__":
    raise SystemExit(main())
