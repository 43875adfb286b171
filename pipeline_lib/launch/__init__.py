"""Where training jobs run. A launcher is one module with a `LAUNCHER`; `engine.launcher` in params names it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from pipeline_lib.launch.base import Launcher
    from pipeline_lib.training.spec import JobSpec


def launcher_named(name: str) -> Launcher:
    """The launcher of module `pipeline_lib.launch.<name>`; ConfigError when there is none."""
    address = f"{__name__}.{name}"
    try:
        launcher: Launcher = importlib.import_module(address).LAUNCHER
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != address:
            raise  # the launcher is there; something that it imports is not
        raise ConfigError("engine.launcher", name, "no such launcher; see pipeline_lib/launch") from None
    return launcher


def run_job(spec: JobSpec) -> Mapping[str, float]:
    """Run `spec` to its end with the launcher its engine section names; returns the job's metrics.

    Idempotent: a running copy of the same job is reattached to, an interrupted one continues from its checkpoint.
    Raises what the job failed with: Preempted, ConfigError-like bad input, JobHeld by a queue, or JobFailed with the
    log's tail.
    """
    from pipeline_lib.launch.waiting import run_to_end

    return run_to_end(launcher_named(str(spec.engine["launcher"])), spec)
