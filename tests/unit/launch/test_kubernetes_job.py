"""A Job that changes between two reads, on an API of the test's own; whole runs are in tests/integration/test_kubernetes.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import V1Job, V1Pod

from pipeline_lib.launch import kubernetes
from pipeline_lib.launch.job import Job
from pipeline_lib.launch.kubernetes import KubernetesJob, KubernetesLauncher
from pipeline_lib.params import KubernetesParams

LONG_AGO = (datetime.now(UTC) - timedelta(hours=3)).isoformat()


class Api:
    """The requests of `kubernetes_api.Cluster`; `after_a_read` happens once, when the next read was answered."""

    def __init__(self, job: V1Job | None, pods: list[V1Pod]) -> None:
        self._job, self._pods = job, pods
        self.after_a_read: Callable[[], None] = lambda: None
        self.deleted: list[str] = []
        self.created: list[str] = []

    def become(self, job: V1Job | None, pods: list[V1Pod]) -> None:
        self._job, self._pods = job, pods

    def _answer(self, answer: Any) -> Any:
        then, self.after_a_read = self.after_a_read, lambda: None
        then()
        return answer

    def job(self, name: str) -> V1Job | None:
        return self._answer(self._job)

    def pods(self, job: V1Job) -> list[V1Pod]:
        return self._answer(self._pods)

    def delete_job(self, job: V1Job) -> None:
        if self._job is not None and self._job.metadata.uid == job.metadata.uid:
            self.deleted.append(job.metadata.uid)
            self.become(None, [])

    def create_job(self, manifest: dict[str, Any]) -> V1Job:
        self.created.append(manifest["metadata"]["name"])
        return _job("new")

    def warning(self, job: V1Job) -> str:
        return ""


def _job(uid: str = "1", end: str = "", reason: str = "", message: str = "") -> V1Job:
    conditions = [{"type": end, "status": "True", "reason": reason, "message": message}] if end else []
    template = {"spec": {"containers": [{"name": "ranks"}]}}
    status = {"conditions": conditions, "startTime": LONG_AGO}
    return V1Job.from_dict(
        {"metadata": {"name": "j", "uid": uid}, "spec": {"completions": 1, "template": template},
         "status": status}
    )  # fmt: skip


def _pod(phase: str, waits_for: str = "", **status: Any) -> V1Pod:
    fixed = {"name": "ranks", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    if waits_for:
        state = {"waiting": {"reason": waits_for, "message": "m"}}
        status["containerStatuses"] = [{**fixed, "state": state}]
    return V1Pod.from_dict(
        {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "ranks"}]},
         "status": {"phase": phase, "startTime": LONG_AGO, **status}}
    )  # fmt: skip


@pytest.fixture
def asked(job: Job) -> KubernetesParams:
    return KubernetesParams(image="r1:1", volumes={"work": str(job.root)})


@pytest.fixture
def clock(monkeypatch) -> Callable[[float], None]:
    """Moves the launcher's monotonic clock."""
    now = [1000.0]
    monkeypatch.setattr(kubernetes, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def _follow(api: Api, job: Job, asked: KubernetesParams) -> KubernetesJob:
    return KubernetesJob(api, job, asked, _job())


def test_a_drained_pod_that_vanishes_between_two_reads_does_not_hold_the_job(job, asked):
    """The Job started three hours ago and may take one to start: without its pod it would look as if it never had."""
    api = Api(_job(), [_pod("Running")])
    running = _follow(api, job, asked)
    assert running.status().phase == "running"
    why = "Pod ns/a has condition DisruptionTarget matching FailJob rule at index 0"
    api.after_a_read = lambda: api.become(_job("1", "FailureTarget", "PodFailurePolicy", why), [])
    assert running.status().phase in ("running", "waiting")
    assert running.status().phase == "waiting", "its pods are still ending"


def test_an_image_that_took_long_and_then_fails_once_is_pulled_again(job, asked, clock):
    """The pod is there for hours; what counts is since when the kubelet cannot start it."""
    asked = asked.model_copy(update={"start_minutes": 0})
    api = Api(_job(), [_pod("Pending", "ContainerCreating")])
    running = _follow(api, job, asked)
    assert running.status().phase == "waiting"
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        clock(200)
        api.become(_job(), [_pod("Pending", reason)])
        assert running.status().phase == "waiting"
    clock(10)
    api.become(_job(), [_pod("Pending", "ContainerCreating")])
    assert running.status().phase == "waiting"
    api.become(_job(), [_pod("Pending", "ErrImagePull")])
    clock(200)
    assert running.status().phase == "waiting", "it was tried again in between"
    assert api.deleted == []
    clock(301)
    assert running.status().exit_code == 2
    assert api.deleted == ["1"]


def test_who_submits_does_not_delete_a_living_job_that_took_the_name_meanwhile(job, asked, monkeypatch):
    """Another machine replaces the ended Job between two reads of this one."""
    (job.root / "input").touch()
    api = Api(_job("old", "Complete"), [])
    monkeypatch.setattr(kubernetes, "Cluster", lambda asked: api)
    monkeypatch.setattr(kubernetes, "REPLACE_LOOK_SECONDS", 0.0)

    def after_the_job() -> None:
        api.after_a_read = lambda: api.become(_job("living"), [])

    api.after_a_read = after_the_job
    submitted = KubernetesLauncher().submit(replace(job, settings=asked.model_dump(mode="json")))
    assert api.deleted == []
    assert api.created == []
    assert submitted._found.metadata.uid == "living"
