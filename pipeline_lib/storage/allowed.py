"""What a parameter may name where others may trigger runs: directories (`R1_ALLOWED_DIRS`), servers (`R1_ROLLOUT_SERVERS`).

Who triggers a run names files by path (a source of problems, a base model), and the stage reads them with the rights of the worker.
Where the variable is set (directories, separated by `:`), only what lies inside one of them is read, or inside the checkout and not
below a hidden directory of it (Airflow's and DVC's settings are there); links are followed first. Where it is not set, as on one's own machine, any path may be named. docs/decisions/0019 says why it is a setting of the
worker's environment and no parameter.

Rollout servers are sent weights and `VLLM_API_KEY`: where directories are listed, so must they be (`host:port`, separated by `,`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.errors import ConfigError, DataError
from pipeline_lib.tracking.locations import main_checkout

ALLOWED = "R1_ALLOWED_DIRS"
SERVERS = "R1_ROLLOUT_SERVERS"


def require_allowed(path: Path, root: Path | None = None) -> Path:
    """Return `path` if a parameter may name it; `root` is a checkout (default: where we are).

    Raises DataError otherwise, before anything opens the path.
    """
    if "\0" in str(path):
        raise DataError(f"{str(path)!r}: a path holds no NUL character. Correct the path.")
    listed = [part for part in os.environ.get(ALLOWED, "").split(os.pathsep) if part]
    if not listed:
        return path
    real = Path(os.path.realpath(path))
    checkout = main_checkout(root)
    ours = real.is_relative_to(checkout) and not any(
        p.startswith(".") for p in real.relative_to(checkout).parts
    )
    if not ours and not any(real.is_relative_to(os.path.realpath(directory)) for directory in listed):
        raise DataError(
            f"{path}: outside the directories that parameters may name here. Move it below one of {ALLOWED} ({', '.join(listed)})."
        )
    return path


def require_allowed_servers(addresses: Sequence[str]) -> None:
    """Raise ConfigError for one that a parameter may not name here."""
    if not os.environ.get(ALLOWED):
        return
    listed = [part.strip() for part in os.environ.get(SERVERS, "").split(",") if part.strip()]
    for address in addresses:
        if address not in listed:
            raise ConfigError(
                "engine.servers.addresses",
                address,
                f"is not a server that parameters may name here; whoever runs this worker lists it in {SERVERS}",
            )
