"""Turn the events of one journal into calls of MLflow's client. Every call may be repeated without harm.

Metrics carry the time at which they were logged, and MLflow's store ignores an exact copy; parameters and tags
are set to the same values; an uploaded file is overwritten. So a shipper killed between sending and writing
its cursor only sends again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from pipeline_lib.storage.atomic import write_json
from pipeline_lib.tracking.client import experiment_id
from pipeline_lib.tracking.find import RunLink, index_path, write_link
from pipeline_lib.tracking.journal import Event, Journal

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
    from mlflow.tracking import MlflowClient

MAX_BATCH = 1000
"""Metrics per request: MLflow's own limit."""
TABLES_TAG = "mlflow.loggedArtifacts"
SYSTEM_METRICS_EVERY_S = 10.0


class Delivery:
    """One journal on its way to MLflow."""

    def __init__(self, journal: Journal, root: Path) -> None:
        self.journal, self.root = journal, root
        self.cursor = journal.cursor()
        self._start_body: Mapping[str, Any] = {}
        self._processes: set[tuple[int, float]] = set()
        self._scanned = 0
        self._monitor: SystemMetricsMonitor | None = None
        self._known: dict[str, set[int]] | None = {} if self.cursor.adopted else None

    def pending(self) -> bool:
        """True when the journal holds a whole event that was not delivered."""
        return next(self.journal.read(self.cursor.offset), None) is not None

    @property
    def start_body(self) -> Mapping[str, Any]:
        """The latest start event: stage, item, pipeline_run, uri."""
        self._scan()
        return self._start_body

    def alive(self) -> bool:
        """True while a process that writes the journal lives: the stage, or a job it started."""
        self._scan()
        self._processes = {process for process in self._processes if _lives(*process)}
        return bool(self._processes)

    def _scan(self) -> None:
        """Read what was appended since the last look, delivered or not."""
        for event, offset in self.journal.read(self._scanned):
            self._scanned = offset
            if event.kind == "start":
                self._start_body = event.body
            if event.kind in ("start", "attach"):
                self._processes.add((event.body["pid"], event.body["born"]))

    def deliver(self, client: MlflowClient) -> None:
        """Send everything the journal holds; raises what MLflow raises, with the cursor at the last success."""
        batch: list[Event] = []
        batched = self.cursor.offset
        for event, offset in self.journal.read(self.cursor.offset):
            if event.kind == "metrics":
                batch.append(event)
                batched = offset
                if sum(len(e.body["metrics"]) for e in batch) < MAX_BATCH:
                    continue
            if batch:
                self._send_metrics(client, batch)
                self._advance(batched)
                batch = []
            if event.kind != "metrics":
                self._apply(client, event)
                self._advance(offset)
        if batch:
            self._send_metrics(client, batch)
            self._advance(batched)

    def fail(self, error: Exception) -> None:
        """Note for the waiting stage why nothing moves."""
        text = (str(error).splitlines() or [""])[0]
        self._write(replace(self.cursor, error=f"{type(error).__name__}: {text}"[:300]))

    def kill(self, client: MlflowClient) -> None:
        """The stage died without a word: say so. A retry continues the same run."""
        self._stop_monitor()
        client.set_terminated(self.cursor.run_id, "KILLED")
        self._write(replace(self.cursor, status="KILLED"))

    def stop(self) -> None:
        """Stop sampling the machine; the shipper is about to end."""
        self._stop_monitor()

    def _apply(self, client: MlflowClient, event: Event) -> None:
        if event.kind == "start":
            self._start(client, event)
        elif event.kind == "dataset":
            self._dataset(client, event.body)
        elif event.kind == "artifact":
            self._artifact(client, event.body)
        elif event.kind == "tags":
            self._tags(client, event.body["tags"])
        elif event.kind == "end":
            self._end(client, event)

    def _start(self, client: MlflowClient, event: Event) -> None:
        body = event.body
        if not self.cursor.run_id:
            found = self._unfinished(client, body["identity"])
            run = found or self._create(client, event)
            self._write(
                replace(
                    self.cursor,
                    run_id=run.info.run_id,
                    experiment_id=run.info.experiment_id,
                    adopted=found is not None,
                )
            )
        self._known = {} if self.cursor.adopted else None
        run_id = self.cursor.run_id
        client.update_run(run_id, status="RUNNING")
        profile = _profile(self.root)
        tags = {
            **body["tags"],
            "stage": body["stage"],
            "pipeline_run": body["pipeline_run"],
            "identity": body["identity"],
            "mlflow.source.name": f"python -m tasks.{body['stage']}",
            "mlflow.source.type": "PROJECT",
            "mlflow.source.git.commit": body["tags"]["git_commit"].removesuffix("-dirty"),
        }
        if body["item"] is not None:
            tags["item"] = body["item"]
        if profile:
            tags["profile"] = profile
        self._tags(client, tags)
        self._params(client, body["params"])
        self._write(replace(self.cursor, status="RUNNING"))
        write_link(body["stage"], body["item"], RunLink(run_id, self.cursor.experiment_id), self.root)
        self._start_monitor()

    def _unfinished(self, client: MlflowClient, identity: str) -> Run | None:
        """The run of a stage whose journal was lost (another machine, a cleaned worktree) before it ended."""
        found = client.search_runs(
            [experiment_id(client, self.root)],
            f"tags.identity = '{identity}' and attributes.status != 'FINISHED'",
            max_results=1,
        )
        return found[0] if found else None

    def _create(self, client: MlflowClient, event: Event) -> Run:
        body = event.body
        name = body["stage"] if body["item"] is None else f"{body['stage']}@{body['item']}"
        parent = parent_run(client, body["pipeline_run"], self.root, body["tags"]["git_commit"])
        return client.create_run(
            parent.info.experiment_id,
            start_time=event.time_ms,
            run_name=name,
            tags={"mlflow.parentRunId": parent.info.run_id, "kind": "stage"},
        )

    def _params(self, client: MlflowClient, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in params.items()]
        for first in range(0, len(items), 100):
            client.log_batch(self.cursor.run_id, params=items[first : first + 100])

    def _tags(self, client: MlflowClient, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        client.log_batch(self.cursor.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _send_metrics(self, client: MlflowClient, events: list[Event]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, event.time_ms, event.body["step"] or 0)
            for event in events
            for key, value in event.body["metrics"].items()
            if not self._is_known(client, key, event.body["step"])
        ]
        for first in range(0, len(metrics), MAX_BATCH):
            client.log_batch(self.cursor.run_id, metrics=metrics[first : first + MAX_BATCH])

    def _is_known(self, client: MlflowClient, key: str, step: int | None) -> bool:
        """True for a step that an adopted run already holds; a journal of our own never repeats one."""
        if self._known is None or step is None:
            return False
        if key not in self._known:
            history = client.get_metric_history(self.cursor.run_id, key)
            self._known[key] = {metric.step for metric in history}
        return step in self._known[key]

    def _dataset(self, client: MlflowClient, body: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=body["name"],
            digest=body["digest"],
            source_type="dvc",
            source=json.dumps({"path": body["source"], "md5": body["digest"]}, sort_keys=True),
        )
        tags = [InputTag("mlflow.data.context", body["context"])]
        client.log_inputs(self.cursor.run_id, [DatasetInput(dataset, tags)])

    def _artifact(self, client: MlflowClient, body: Mapping[str, Any]) -> None:
        path = Path(body["path"])
        if not path.exists():
            return  # sent before, by a shipper that was killed before it wrote its cursor
        if path.is_dir():
            client.log_artifacts(
                self.cursor.run_id, str(path), "/".join(p for p in (body["folder"], path.name) if p)
            )
        else:
            client.log_artifact(self.cursor.run_id, str(path), body["folder"] or None)
        if body.get("table"):
            tags = client.get_run(self.cursor.run_id).data.tags
            tables = json.loads(tags.get(TABLES_TAG, "[]"))
            if {"path": path.name, "type": "table"} not in tables:
                tables.append({"path": path.name, "type": "table"})
                client.set_tag(self.cursor.run_id, TABLES_TAG, json.dumps(tables))
        shutil.rmtree(path.parent, ignore_errors=True)

    def _end(self, client: MlflowClient, event: Event) -> None:
        body = event.body
        self._stop_monitor()
        self._tags(client, {"output_hash": body["output_hash"], "error": body["error"]})
        client.set_terminated(self.cursor.run_id, body["status"], end_time=event.time_ms)
        self._write(replace(self.cursor, status=body["status"]))
        if body["status"] == "FINISHED" and body["output_hash"]:
            write_json(
                index_path(self.start_body["stage"], self.start_body["item"], body["output_hash"], self.root),
                {
                    "run_id": self.cursor.run_id,
                    "experiment_id": self.cursor.experiment_id,
                    "uri": self.start_body["uri"],
                },
            )

    def _start_monitor(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._stop_monitor()
        self._monitor = SystemMetricsMonitor(
            self.cursor.run_id,
            sampling_interval=SYSTEM_METRICS_EVERY_S,
            resume_logging=True,
            tracking_uri=self.start_body["uri"],
        )
        self._monitor.start()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None

    def _advance(self, offset: int) -> None:
        self._write(replace(self.cursor, offset=offset, error=""))

    def _write(self, cursor: Any) -> None:
        self.cursor = cursor
        self.journal.write_cursor(cursor)


def _lives(pid: int, born: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - born) < 1.0
    except psutil.NoSuchProcess:
        return False


def parent_run(client: MlflowClient, pipeline_run: str, root: Path, git_commit: str = "") -> Run:
    """Return the run that stands for the whole pipeline run, created where it is missing, and running."""
    experiment = experiment_id(client, root)
    found = client.search_runs(
        [experiment], f"tags.pipeline_run = '{pipeline_run}' and tags.kind = 'pipeline'", max_results=1
    )
    if found:
        if found[0].info.status != "RUNNING":
            client.update_run(found[0].info.run_id, status="RUNNING")
        return found[0]
    profile = _profile(root)
    tags = {"pipeline_run": pipeline_run, "kind": "pipeline", "git_commit": git_commit, "worktree": str(root)}
    run = client.create_run(
        experiment, run_name=pipeline_run, tags={**tags, **({"profile": profile} if profile else {})}
    )
    if (root / "params.yaml").is_file():
        client.log_artifact(run.info.run_id, str(root / "params.yaml"))
    return run


def close_parent(client: MlflowClient, pipeline_run: str, root: Path) -> None:
    """Give the pipeline's run the status its stages add up to: FAILED if the last run of any stage failed."""
    parent = parent_run(client, pipeline_run, root)
    children = client.search_runs(
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
        order_by=["attributes.start_time ASC"],
    )
    last = {run.info.run_name: run.info.status for run in children}
    bad = any(status in ("FAILED", "KILLED") for status in last.values())
    client.set_terminated(parent.info.run_id, "FAILED" if bad else "FINISHED")


def _profile(root: Path) -> str:
    """`run.profile` of the worktree's params.yaml; empty where there is none."""
    path = root / "params.yaml"
    if not path.is_file():
        return ""
    document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return str((document.get("run") or {}).get("profile", ""))
