"""Sources of data: one module of this package each, found by its name, nothing to register.

A source module defines

    class Options(StrictModel): ...                                       # what `options:` may hold
    def problems(options: Options, seed: int) -> list[Problem]            # and, where it can,
    def preferences(options: Options, seed: int) -> list[PreferencePair]
    def safety(options: Options, seed: int) -> list[SafetyExample]

To add a source, add a file. `docs/decisions/0007-data-sources.md` says why it is this small.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from types import ModuleType
from typing import Any, cast

from pydantic import ValidationError

from pipeline_lib.data.schema import PreferencePair, SafetyExample
from pipeline_lib.errors import ConfigError
from pipeline_lib.params import SourceSpec
from pipeline_lib.types import Problem


def kinds() -> list[str]:
    """The names of all sources. Looks at file names only; nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_problems(spec: SourceSpec, *, seed: int) -> list[Problem]:
    """The problems of one source, at most `spec.limit` of them, the same for the same seed.

    Raises ConfigError for an unknown kind or option, DataError and StorageError for what the source reads.
    """
    return cast("list[Problem]", _load(spec, "problems", seed))


def load_preferences(spec: SourceSpec, *, seed: int) -> list[PreferencePair]:
    """The preference pairs of one source; see `load_problems`."""
    return cast("list[PreferencePair]", _load(spec, "preferences", seed))


def load_safety(spec: SourceSpec, *, seed: int) -> list[SafetyExample]:
    """The safety examples of one source; see `load_problems`."""
    return cast("list[SafetyExample]", _load(spec, "safety", seed))


def options_of(spec: SourceSpec) -> Any:
    """The source's own options, checked; nothing is read. ConfigError for an unknown kind or option."""
    module = _module(spec.kind)
    try:
        return module.Options.model_validate(spec.options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["options", *(str(part) for part in first["loc"])])
        allowed = ", ".join(module.Options.model_fields)
        raise ConfigError(
            f"{spec.kind}.{field}", first.get("input"), f"{first['msg']}; the options are {allowed}"
        ) from error


def _load(spec: SourceSpec, what: str, seed: int) -> list[Any]:
    module = _module(spec.kind)
    if not hasattr(module, what):
        raise ConfigError(
            "kind", spec.kind, f"this source has no {what}; choose another for role {spec.role!r}"
        )
    options = options_of(spec)
    records = getattr(module, what)(options, seed)
    if spec.limit is not None and spec.limit < len(records):
        chosen = sorted(random.Random(seed).sample(range(len(records)), spec.limit))
        records = [records[index] for index in chosen]
    return list(records)


def _module(kind: str) -> ModuleType:
    if kind not in kinds():
        raise ConfigError("kind", kind, f"unknown source; known: {', '.join(kinds())}")
    return importlib.import_module(f"{__name__}.{kind}")
