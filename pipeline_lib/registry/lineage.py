"""Where a model of the run came from: its stage, parent, data and their hashes, read from dvc.yaml and dvc.lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import DataError
from pipeline_lib.orchestration.graph import Graph, Stage, load_graph, load_yaml
from pipeline_lib.tracking.locations import link_name
from pipeline_lib.tracking.outputs import content_hash, locked_stages


@dataclass(frozen=True, slots=True)
class Lineage:
    """The origin of models/<model>."""

    model: str
    stage: str
    item: str | None
    content_hash: str
    """DVC's hash of the model directory."""
    parent: str | None
    """The model training started from; None for the base."""
    teacher: str | None
    """The model whose samples a student was trained on."""
    deps: Mapping[str, str]
    """Path -> DVC hash of everything the stage read."""
    params: Mapping[str, Any]
    """The parameters dvc.lock recorded for the stage."""

    @property
    def address(self) -> str:
        """The stage as DVC names it."""
        return link_name(self.stage, self.item)


def model_lineage(model: str, root: Path) -> Lineage:
    """Return the lineage of models/<model>.

    Raises:
        DataError: No stage writes it, or the stage was never run through DVC here.
    """
    path = f"models/{model}"
    graph = load_graph(root)
    stage, item = _writer(graph, path, root)
    entry = locked_stages(root).get(link_name(stage.name, item))
    hashes = {out["path"].rstrip("/"): out["md5"] for out in (entry or {}).get("outs", ())}
    if entry is None or path not in hashes:
        raise DataError(f"{path}: dvc.lock does not know it; run `dvc repro {link_name(stage.name, item)}`")
    if content_hash(root / path) != hashes[path]:
        raise DataError(
            f"{path}: differs from what dvc.lock records; run `dvc repro {link_name(stage.name, item)}`"
        )
    deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", ()) if "md5" in dep}
    read_models = [dep.removeprefix("models/") for dep in stage.deps if dep.startswith("models/")]
    is_student = any(dep.startswith("data/distillation") for dep in stage.deps)
    return Lineage(
        model=model,
        stage=stage.name,
        item=item,
        content_hash=hashes[path],
        parent=next(iter(read_models), None),
        teacher=_teacher(graph) if is_student else None,
        deps=deps,
        params={
            key: value for values in (entry.get("params") or {}).values() for key, value in values.items()
        },
    )


def _writer(graph: Graph, path: str, root: Path) -> tuple[Stage, str | None]:
    params = load_yaml(root / "params.yaml")
    for stage in graph.stages:
        for item in stage.items(params) if stage.is_matrix else (None,):
            if path in {out.replace("*", item or "*") for out in stage.outs}:
                return stage, item
    raise DataError(f"{path}: no stage of dvc.yaml writes it")


def _teacher(graph: Graph) -> str | None:
    """The model the distillation data was sampled from."""
    for stage in graph.stages:
        if any(out.startswith("data/distillation") for out in stage.outs):
            return next(
                (dep.removeprefix("models/") for dep in stage.deps if dep.startswith("models/")), None
            )
    return None
