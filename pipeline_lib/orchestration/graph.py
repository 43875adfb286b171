"""The stage graph as `dvc.yaml` declares it (design §3: the DAG is projected, never written twice).

DVC's own loader takes seconds to import; a DAG file may not. What a DAG needs is little: the stages,
which of them a `matrix` multiplies, and who reads what another one writes. `${item.x}` is known only
at run time, so it counts as a wildcard for one path component; `${section.key}` is looked up in params.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from pipeline_lib.errors import ConfigError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # safe both; in C it is ten times faster
_TEMPLATE = re.compile(r"\$\{\s*([^}\s]+)\s*\}")
_ITEM = re.compile(r"\$\{\s*item(?:\.[^}\s]+)?\s*\}")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
"""What a matrix value may look like. It becomes a path and a word on a command line DVC gives to a shell."""

DEFAULT_GROUP = "pipeline"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of dvc.yaml, or all stages that one `matrix` entry stands for."""

    name: str
    deps: tuple[str, ...]
    """Paths read; `*` stands for a matrix value."""
    outs: tuple[str, ...]
    """Paths written: outs, metrics and plots alike; `*` stands for a matrix value."""
    group: str = DEFAULT_GROUP
    pool: str | None = None
    doc: str = ""
    matrix_key: str | None = None
    matrix_values: str | tuple[str, ...] = ()
    """Either the dotted parameter that holds the values, or the values themselves."""

    @property
    def is_matrix(self) -> bool:
        """True where the stage is run once per value: `name@value`."""
        return self.matrix_key is not None

    def address(self, item: str | None = None) -> str:
        """Return the name DVC knows the stage by: `name`, or `name@item` for a matrix stage."""
        if self.is_matrix != (item is not None):
            raise ConfigError(self.name, item, "a matrix stage needs a value and a plain one takes none")
        return self.name if item is None else f"{self.name}@{item}"

    def items(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the matrix values of a run with `params`; each a valid name, none twice, at least one."""
        field = self.matrix_values if isinstance(self.matrix_values, str) else f"{self.name}.matrix"
        values = look_up(params, field) if isinstance(self.matrix_values, str) else self.matrix_values
        return check_names(field, values)


@dataclass(frozen=True, slots=True)
class Graph:
    """The stages in an order in which every stage follows those it reads from."""

    stages: tuple[Stage, ...]
    upstream: Mapping[str, frozenset[str]]
    """Stage name -> names of the stages whose outs it reads; direct edges only."""

    def __getitem__(self, name: str) -> Stage:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError("stage", name, f"dvc.yaml has {', '.join(s.name for s in self.stages)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Stage names in topological order."""
        return tuple(stage.name for stage in self.stages)

    def reduced_upstream(self, name: str) -> frozenset[str]:
        """Direct edges less those that another direct edge already implies: what a drawing should show."""
        direct = self.upstream[name]
        return frozenset(u for u in direct if not any(u in self.ancestors(v) for v in direct if v != u))

    def ancestors(self, name: str) -> frozenset[str]:
        """Every stage that has to run before `name` does."""
        found: set[str] = set()
        todo = list(self.upstream[name])
        while todo:
            stage = todo.pop()
            if stage not in found:
                found.add(stage)
                todo.extend(self.upstream[stage])
        return frozenset(found)

    def subgraph(self, names: Iterable[str]) -> Graph:
        """Only the named stages, with the edges between them."""
        keep = {self[name].name for name in names}
        return Graph(
            stages=tuple(s for s in self.stages if s.name in keep),
            upstream={n: self.upstream[n] & keep for n in self.names if n in keep},
        )


def load_graph(root: Path) -> Graph:
    """Read `root/dvc.yaml` and `root/params.yaml`; frozen stages are left out, as `dvc repro` leaves them.

    Raises ConfigError when the file is missing, a matrix has more than one key, or the graph has a cycle.
    """
    path = root / "dvc.yaml"
    if not path.is_file():
        raise ConfigError("dvc.yaml", str(path), "not found: a run needs the pipeline's definition")
    document = load_yaml(path)
    params = load_yaml(root / "params.yaml")
    stages = {
        name: _parse_stage(name, body, params)
        for name, body in (document.get("stages") or {}).items()
        if not body.get("frozen", False)
    }
    outs = _by_top(stages.values())
    upstream = {name: _writers(stage, outs) for name, stage in stages.items()}
    return Graph(stages=tuple(_sorted(stages, upstream)), upstream=upstream)


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an absent file is an empty one."""
    if not path.is_file():
        return {}
    loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER) or {}
    if not isinstance(loaded, dict):
        raise ConfigError(path.name, type(loaded).__name__, "must hold a mapping at its top level")
    return loaded


def look_up(params: Mapping[str, Any], dotted: str) -> Any:
    """Return `params["a"]["b"]` for `"a.b"`; ConfigError names the missing part."""
    value: Any = params
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ConfigError(dotted, None, f"params.yaml has no such entry (missing {part!r})")
        value = value[part]
    return value


def check_names(field: str, values: Any) -> tuple[str, ...]:
    """Return `values` as a tuple of names fit for a path and a command line, or raise ConfigError."""
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(field, values, "must be a list with at least one name")
    for value in values:
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise ConfigError(field, value, "a name has letters, digits, '.', '_' and '-' only")
    twice = sorted({value for value in values if list(values).count(value) > 1})
    if twice:
        raise ConfigError(field, twice[0], "is listed twice; every name may appear once")
    return tuple(values)


def _parse_stage(name: str, body: Mapping[str, Any], params: Mapping[str, Any]) -> Stage:
    matrix = body.get("matrix")
    key: str | None = None
    values: str | tuple[str, ...] = ()
    if matrix is not None:
        if len(matrix) != 1:
            raise ConfigError(f"{name}.matrix", list(matrix), "one key a matrix: the value names the task")
        key, raw = next(iter(matrix.items()))
        template = _TEMPLATE.fullmatch(raw) if isinstance(raw, str) else None
        values = template.group(1) if template else tuple(str(v) for v in raw)
    meta = body.get("meta") or {}
    outs = [p for kind in ("outs", "metrics", "plots") for p in _paths(body.get(kind))]
    return Stage(
        name=name,
        deps=tuple(_resolve(p, params) for p in _paths(body.get("deps"))),
        outs=tuple(_resolve(p, params) for p in outs),
        group=meta.get("group", DEFAULT_GROUP),
        pool=meta.get("pool"),
        doc=(body.get("desc") or "").strip(),
        matrix_key=key,
        matrix_values=values,
    )


def _paths(entries: Any) -> Iterator[str]:
    """Yield the paths of a dvc.yaml list, whose entries are `path` or `{path: {options}}`."""
    for entry in entries or ():
        yield from entry if isinstance(entry, dict) else (entry,)


def _resolve(path: str, params: Mapping[str, Any]) -> str:
    path = _ITEM.sub("*", path)
    return _TEMPLATE.sub(lambda match: str(look_up(params, match.group(1))), path).rstrip("/")


def _by_top(stages: Iterable[Stage]) -> dict[str, list[tuple[str, str]]]:
    """Every out with the stage that writes it, by the out's first component. Most deps are code, and nothing writes there."""
    found: dict[str, list[tuple[str, str]]] = {}
    for stage in stages:
        for out in stage.outs:
            found.setdefault(_top(out), []).append((out, stage.name))
    return found


def _top(path: str) -> str:
    return path.partition("/")[0]


def _writers(reader: Stage, outs: Mapping[str, Sequence[tuple[str, str]]]) -> frozenset[str]:
    """Names of the stages that write what `reader` reads.

    A path that one stage writes by name is not also taken to be a value of another one's matrix:
    `models/r1` comes from the stage with the out `models/r1`, not from `distill`'s `models/*`.
    """
    writers: set[str] = set()
    for dep in reader.deps:
        near = [each for top, written in outs.items() if _overlap(top, _top(dep)) for each in written]
        others = [(out, name) for out, name in near if name != reader.name]
        named = {name for out, name in others if _overlap(out, dep, exact="*" not in dep)}
        writers |= named or {name for out, name in others if _overlap(out, dep)}
    return frozenset(writers)


def _overlap(one: str, other: str, *, exact: bool = False) -> bool:
    """True when one path is the other or lies inside it; wildcards match one component unless `exact`."""
    pairs = zip(one.split("/"), other.split("/"), strict=False)
    return all(a == b or (not exact and (fnmatchcase(a, b) or fnmatchcase(b, a))) for a, b in pairs)


def _sorted(stages: Mapping[str, Stage], upstream: Mapping[str, frozenset[str]]) -> Iterator[Stage]:
    """Yield the stages after their upstreams, otherwise in dvc.yaml's order."""
    waiting = dict(stages)
    done: set[str] = set()
    while waiting:
        ready = next((name for name in waiting if upstream[name] <= done), None)
        if ready is None:
            raise ConfigError("dvc.yaml", sorted(waiting), "these stages wait for each other in a circle")
        done.add(ready)
        yield waiting.pop(ready)
