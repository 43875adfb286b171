"""Where a stage's MLflow run and Data Docs are, known before the stage starts.

Before: a search by the tags that tracking will write (`stage`, `pipeline_run`). After: the run itself,
named by the stage in `.run/mlflow/<stage>.json`. A stage restored from cache has no run of this
pipeline run; it links to the run that computed it, found by the hash of its outputs, which tracking
tags. MLflow's REST API is spoken with the standard library: importing mlflow takes 4.5 s, which every
task would pay.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from pipeline_lib.errors import ConfigError, PipelineError
from pipeline_lib.tracking.locations import EXPERIMENT, artifact_root
from pipeline_lib.tracking.outputs import locked_output_hash

_TIMEOUT_S = 30.0
"""A server on a busy machine may take more than ten; one that is not there refuses at once."""
_DELIVERY_S = 3.0
"""How long a run that is not found may still be on its way: its stage ended, its last lines are being delivered."""


class MlflowUnreachable(PipelineError):
    """The tracking server does not answer, or refuses."""


@dataclass(frozen=True, slots=True)
class TrackingServer:
    """An MLflow server as a stage's links need it."""

    uri: str
    """http(s)://host:port"""
    root: Path
    """A checkout of the repository, which decides where artifacts go."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What every request carries besides: a log-in, where the server asks for one."""

    def search_page(self, address: str, run: str) -> str:
        """Return the page that lists the MLflow runs of stage `address` in pipeline run `run`."""
        where = f"{_is_stage(address)} and tags.pipeline_run = '{run}'"
        query = urlencode({"searchFilter": where}, quote_via=quote)
        return f"{self.uri}/#/experiments/{self.experiment_id()}/runs?{query}"

    def runs_page(self, run: str) -> str:
        """Return the page that lists every MLflow run of pipeline run `run`."""
        query = urlencode({"searchFilter": f"tags.pipeline_run = '{run}'"}, quote_via=quote)
        return f"{self.uri}/#/experiments/{self.experiment_id()}/runs?{query}"

    def run_page(self, mlflow_run_id: str, experiment_id: str) -> str:
        """Return the page of one MLflow run."""
        return f"{self.uri}/#/experiments/{experiment_id}/runs/{mlflow_run_id}"

    def experiment_id(self) -> str:
        """Return the id of the pipeline's experiment; it is created where it does not exist yet."""
        get = "experiments/get-by-name?" + urlencode({"experiment_name": EXPERIMENT})
        try:
            found = self._call(get)
        except _NotFound:
            new = {"name": EXPERIMENT, "artifact_location": artifact_root(self.root)}
            try:
                return str(self._call("experiments/create", new)["experiment_id"])
            except MlflowUnreachable:  # another task created it in between
                found = self._call(get)
        return str(found["experiment"]["experiment_id"])

    def find_restored(self, worktree: Path, address: str) -> str | None:
        """Return the page of the newest MLflow run that computed the outputs the stage now has, or None."""
        stage, _, item = address.partition("@")
        outputs = locked_output_hash(stage, item or None, worktree)
        if outputs is None:
            return None
        request = {
            "experiment_ids": [self.experiment_id()],
            "filter": f"{_is_stage(address)} and tags.output_hash = '{outputs}' and attributes.status = 'FINISHED'",
            "order_by": ["attributes.start_time DESC"],
            "max_results": 1,
        }
        runs = self._call("runs/search", request).get("runs")
        if not runs:
            time.sleep(_DELIVERY_S)
            runs = self._call("runs/search", request).get("runs")
        return self.run_page(runs[0]["info"]["run_id"], runs[0]["info"]["experiment_id"]) if runs else None

    def registered_model(self, entry: str) -> tuple[str, str]:
        """Return (pipeline run, directory below models/) of a registry entry: `name@alias` or `name/version`.

        Raises ConfigError when the registry has no such entry.
        """
        name, at, alias = entry.partition("@")
        if at:
            path = "registered-models/alias?" + urlencode({"name": name, "alias": alias})
        else:
            name, _, version = entry.rpartition("/")
            path = "model-versions/get?" + urlencode({"name": name, "version": version})
        try:
            found = self._call(path)["model_version"]
        except _NotFound:
            raise ConfigError(
                "models", f"models:/{entry}", "the registry has no such model or alias"
            ) from None
        tags = {tag["key"]: tag["value"] for tag in found.get("tags", ())}
        if "pipeline_run" not in tags or "model" not in tags:
            raise ConfigError(
                "models", f"models:/{entry}", "was not registered by this pipeline (no run in its tags)"
            )
        return tags["pipeline_run"], tags["model"]

    def _call(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **self.headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise _NotFound(f"MLflow: {path.partition('?')[0]}: not found") from None
            raise MlflowUnreachable(f"MLflow at {self.uri} refused {path}: {error}") from None
        except OSError as error:
            raise MlflowUnreachable(f"MLflow at {self.uri} does not answer: {error}") from None


class _NotFound(MlflowUnreachable):
    """It answers, and has no such thing."""


def tracking_server(env: Mapping[str, str], root: Path) -> TrackingServer | None:
    """Return the server that `MLFLOW_TRACKING_URI` names, or None where runs are tracked without one.

    It is asked as MLflow's own client would: with `MLFLOW_TRACKING_USERNAME` and `_PASSWORD` where they are set.
    """
    uri = env.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    if not uri.startswith(("http://", "https://")):
        return None
    user = env.get("MLFLOW_TRACKING_USERNAME")
    if user is None:
        return TrackingServer(uri, root)
    return TrackingServer(uri, root, {"Authorization": basic(user, env.get("MLFLOW_TRACKING_PASSWORD", ""))})


def basic(name: str, password: str) -> str:
    """Return the Authorization header of HTTP basic authentication."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def mlflow_run_of(worktree: Path, address: str) -> tuple[str, str] | None:
    """Return (run id, experiment id) that the stage wrote in this worktree, or None."""
    file = worktree / ".run" / "mlflow" / f"{address}.json"
    if not file.is_file():
        return None
    fields = json.loads(file.read_text(encoding="utf-8"))
    return fields["run_id"], fields["experiment_id"]


def _is_stage(address: str) -> str:
    stage, _, item = address.partition("@")
    return f"tags.stage = '{stage}'" + (f" and tags.item = '{item}'" if item else "")


def data_docs_page(files_url: str, run: str, stage: str) -> str:
    """Return the Data Docs of a gate, or the list of the run's for any other stage; a page that says so until they exist."""
    page = f"{stage}/index.html" if is_gate(stage) else ""
    return f"{files_url.rstrip('/')}/runs/{quote(run)}/reports/data_docs/{page}"


def is_gate(stage: str) -> bool:
    """True for the stages that judge a dataset (design §4: `validate_*`)."""
    return stage.startswith("validate_")
