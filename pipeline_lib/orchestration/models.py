"""Which models an `evaluate` run means: names of a finished run, registry entries, or a directory.

A registered model is a reference (nothing is copied): its tags name the pipeline run and the directory
below models/ that it came from, and the run's branch restores it from the DVC cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.orchestration.graph import check_names
from pipeline_lib.orchestration.links import tracking_server
from pipeline_lib.orchestration.worktree import finished_run
from pipeline_lib.storage.allowed import require_allowed

REGISTRY_SCHEME = "models:/"


@dataclass(frozen=True, slots=True)
class Selection:
    """Models to evaluate, and the commit that has them."""

    names: tuple[str, ...]
    """Directories below models/."""
    revision: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that put a directory in the place of `base`; empty for a run's own models."""


def select_models(root: Path, asked: Sequence[str], from_run: str | None) -> Selection:
    """Return what the `evaluate` form asks for.

    Args:
        root: The main checkout.
        asked: Names (`r1`), registry entries (`models:/<name>@<alias>`, `models:/<name>/<version>`), or one path.
        from_run: Branch or commit of the run the names belong to; empty for the latest finished run.

    Raises:
        ConfigError, DataError: A name is none, a directory has no weights, the entries come from several runs.
    """
    directories = [entry for entry in asked if "/" in entry and not entry.startswith(REGISTRY_SCHEME)]
    if directories:
        if len(asked) > 1:
            raise ConfigError(
                "models", list(asked), "a directory takes the place of `base`: evaluate it alone"
            )
        return _directory(root, directories[0], from_run)
    entries = [entry for entry in asked if entry.startswith(REGISTRY_SCHEME)]
    if entries and len(entries) < len(asked):
        raise ConfigError(
            "models", list(asked), "name models of a run, or registry entries, but not both at once"
        )
    if entries:
        return _registered(root, entries)
    return Selection(check_names("models", list(asked)), finished_run(root, from_run))


def _directory(root: Path, path: str, from_run: str | None) -> Selection:
    try:
        directory = Path(os.path.realpath(require_allowed(root / Path(path).expanduser(), root, held=True)))
    except RuntimeError as error:  # ~nobody-of-that-name
        raise DataError(f"models: {path}: {error}") from None
    if not os.path.isdir(directory):  # Path.is_dir() raises for a name that is too long
        raise DataError(f"models: {path} is not a directory on this machine")
    if not any(directory.glob("*.safetensors")):
        raise DataError(f"models: {path} holds no weights (*.safetensors)")
    overrides = {"prepare_base_model.kind": "directory", "prepare_base_model.source": str(directory)}
    return Selection(("base",), finished_run(root, from_run), overrides)


def _registered(root: Path, entries: Sequence[str]) -> Selection:
    server = tracking_server(os.environ, root)
    if server is None:
        raise ConfigError(
            "models", entries[0], "a registry entry needs an MLflow server: set MLFLOW_TRACKING_URI"
        )
    found = [server.registered_model(entry.removeprefix(REGISTRY_SCHEME)) for entry in entries]
    runs = {run for run, _ in found}
    if len(runs) > 1:
        raise ConfigError(
            "models",
            list(entries),
            f"they come from several runs ({', '.join(sorted(runs))}); evaluate one run's at a time",
        )
    return Selection(
        check_names("models", [name for _, name in found]), finished_run(root, f"run/{runs.pop()}")
    )
