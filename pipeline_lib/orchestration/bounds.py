"""What a trigger form may not set, checked before anything of the run is there but its worktree (docs/decisions/0019).

Two kinds: what a worker writes to and sends to, which its environment lists (`storage.allowed`), and what a run is in a cluster, which the commit's
profile says: an image is a program, a Secret, an account, a claim and a namespace are whose rights it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError
from pipeline_lib.storage.allowed import require_allowed_servers, require_weights_dir

OF_THE_PROFILE = (
    *("context", "namespace", "image", "python", "volumes", "service_account"),
    *("secret", "labels", "env", "pod"),
)
"""Fields of `engine.kubernetes` that have, in every run, the values of the profile in the commit that it starts from."""


def require_bounded(tree: Mapping[str, Any], committed: Mapping[str, Any], worktree: Path) -> None:
    """Check a run's parameters; `committed` are those of its commit and profile, without the form's.

    Raises ConfigError for the first that a form may not set so.
    """
    engine = _section(tree, "engine")
    servers = _section(engine, "servers")
    require_weights_dir(str(servers.get("weights_dir", "")), worktree, held=True)
    require_allowed_servers(servers.get("addresses", []), held=True)
    _require_the_profiles_cluster(
        _section(engine, "kubernetes"), _section(_section(committed, "engine"), "kubernetes")
    )


def _require_the_profiles_cluster(asked: Mapping[str, Any], committed: Mapping[str, Any]) -> None:
    if all(asked.get(field) == committed.get(field) for field in OF_THE_PROFILE):
        return
    from pipeline_lib.params.engine import KubernetesParams  # pydantic: too slow for a DAG file's imports

    usual = KubernetesParams().model_dump()
    for field in OF_THE_PROFILE:
        if asked.get(field, usual[field]) != committed.get(field, usual[field]):
            raise ConfigError(
                f"engine.kubernetes.{field}",
                asked.get(field),
                "is the profile's to say and no form's; write it into a file of profiles/ and commit that",
            )


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}
