"""MLflow's model registry: versions by reference (no weights pass through the server), aliases moved by rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.errors import StorageAway, StorageError
from pipeline_lib.evaluation.report import EvaluationReport
from pipeline_lib.orchestration.dvc_remote import object_address
from pipeline_lib.orchestration.remote_settings import remote_address
from pipeline_lib.registry.lineage import Lineage
from pipeline_lib.registry.model_card import model_card
from pipeline_lib.registry.promotion import (
    Decision,
    RegistryPolicy,
    Scorecard,
    decide,
    score_from_text,
    score_to_text,
    scorecard,
)
from pipeline_lib.registry.safe import require_safe_model
from pipeline_lib.tracking.client import open_client
from pipeline_lib.tracking.find import find_run
from pipeline_lib.tracking.locations import git_commit, pipeline_run, tracking_uri
from pipeline_lib.tracking.outputs import locked_output_hash

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

SCORE_TAG = "score."
MAX_DESCRIPTION = 5000
"""MLflow's limit; the whole card is an artifact of the register_models run."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of this run, ready to be registered."""

    lineage: Lineage
    report: EvaluationReport
    against_baseline: Decision | None
    """What the rule says of this run's baseline model; None for the baseline itself."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What the registry said."""

    name: str
    version: str
    decision: Decision | None
    against: str
    card: str


def prepare(
    lineages: Sequence[Lineage],
    reports: Mapping[str, EvaluationReport],
    policy: RegistryPolicy,
    *,
    margin: float,
) -> list[Entry]:
    """Pair every model with its evaluation and with the rule's verdict against the baseline. Pure."""
    baseline = scorecard(reports[policy.baseline])
    return [
        Entry(
            lineage,
            reports[lineage.model],
            None
            if lineage.model == policy.baseline
            else decide(scorecard(reports[lineage.model]), baseline, policy, margin=margin),
        )
        for lineage in lineages
    ]


def register(
    entries: Sequence[Entry], policy: RegistryPolicy, root: Path, *, prefix: str, margin: float
) -> list[Registered]:
    """Register every entry as a version of `<prefix>-<model>` and move the aliases by the rule.

    The new version becomes `candidate`. It becomes `champion` when it beats the champion before it, or, where there is
    none, this run's baseline. Registering the same content of the same pipeline run twice is one version.

    Raises:
        DataError: A model directory holds something other than safetensors and text; nothing is registered then.
        StorageAway: MLflow cannot be reached, or cannot answer now.
        StorageError: MLflow refuses.
    """
    for entry in entries:
        require_safe_model(root / "models" / entry.lineage.model)
    uri = tracking_uri(root)
    try:
        client = open_client(uri, root)
        return [_register(client, entry, policy, root, prefix, margin) for entry in entries]
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            first = (str(error).splitlines() or [""])[0]
            # A connection that fails and a time-out have 500, too.
            status = error.get_http_status_code()
            kind = StorageAway if status >= 500 or status == 429 else StorageError
            raise kind(
                f"MLflow ({uri}) did not register the models: {first[:300]}. Start it (`make up`), or unset "
                "MLFLOW_TRACKING_URI, and run register_models again."
            ) from error
        raise


def _register(
    client: MlflowClient, entry: Entry, policy: RegistryPolicy, root: Path, prefix: str, margin: float
) -> Registered:
    lineage = entry.lineage
    name = f"{prefix}-{lineage.model}"
    _ensure_model(client, name, lineage)
    champion = _alias(client, name, policy.aliases.champion)
    version = _same_version(client, name, lineage, pipeline_run(root))
    if version is not None and champion is not None and version.version == champion.version:
        decision, against = None, f"{name} version {champion.version} (itself)"
    elif champion is not None:
        against = f"{name} version {champion.version}, the champion"
        decision = decide(scorecard(entry.report), _card_of(champion), policy, margin=margin)
    else:
        against, decision = policy.baseline, entry.against_baseline
    commit = git_commit(root)
    card = model_card(lineage, entry.report, decision, git_commit=commit, against=against)
    if version is None:
        version = _create(client, name, entry, root, commit)
    client.update_model_version(name, version.version, card[:MAX_DESCRIPTION])
    client.set_registered_model_alias(name, policy.aliases.candidate, version.version)
    if decision is not None and decision.promote:
        client.set_registered_model_alias(name, policy.aliases.champion, version.version)
    return Registered(name, str(version.version), decision, against, card)


def _create(client: MlflowClient, name: str, entry: Entry, root: Path, commit: str) -> ModelVersion:
    lineage = entry.lineage
    outputs = locked_output_hash(lineage.stage, lineage.item, root)
    run = find_run(lineage.stage, outputs, lineage.item, root) if outputs else None
    tags = {
        "model": lineage.model,
        "pipeline_run": pipeline_run(root),
        "stage": lineage.address,
        "content_hash": lineage.content_hash,
        "dvc_path": f"models/{lineage.model}",
        "dvc_lock": json.dumps(dict(lineage.deps), sort_keys=True),
        "git_commit": commit,
        "worktree": str(root),
        **({"parent": lineage.parent} if lineage.parent else {}),
        **({"teacher": lineage.teacher} if lineage.teacher else {}),
        **{SCORE_TAG + suite: score_to_text(score) for suite, score in scorecard(entry.report).items()},
    }
    return client.create_model_version(
        name,
        source=_source(lineage),
        run_id=run.run_id if run else None,
        tags=tags,
        await_creation_for=0,
    )


def _source(lineage: Lineage) -> str:
    """Where the bytes are: the remote's object, which any machine can get; without a remote, the name DVC's cache has."""
    remote = remote_address()
    if remote is not None:
        return object_address(remote, lineage.content_hash)
    return f"dvc://models/{lineage.model}/{lineage.content_hash}"


def _ensure_model(client: MlflowClient, name: str, lineage: Lineage) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, tags={"stage": lineage.address, "model": lineage.model})


def _alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    version = client.get_registered_model(name).aliases.get(alias)
    return client.get_model_version(name, version) if version is not None else None


def _same_version(client: MlflowClient, name: str, lineage: Lineage, run: str) -> ModelVersion | None:
    """The version that this run registered of the same content, if it did."""
    for version in client.search_model_versions(
        f"name = '{name}' and tags.content_hash = '{lineage.content_hash}'"
    ):
        if version.tags.get("pipeline_run") == run:
            return version
    return None


def _card_of(version: ModelVersion) -> Scorecard:
    return {
        key.removeprefix(SCORE_TAG): score_from_text(value)
        for key, value in version.tags.items()
        if key.startswith(SCORE_TAG)
    }
