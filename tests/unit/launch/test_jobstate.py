"""What the API shows, and what it means: every end, every wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kubernetes.client import V1Job, V1Pod

from pipeline_lib.launch.base import Status
from pipeline_lib.launch.jobstate import failing_since, hopeless, overdue, status_of, taken_back, why_waiting

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GONE = "Container ranks for pod ns/a failed with exit code {code} matching FailJob rule at index {rule}"


def _job(end: str = "", reason: str = "", message: str = "", **status: Any) -> V1Job:
    conditions = [{"type": end, "status": "True", "reason": reason, "message": message}] if end else []
    template = {"spec": {"containers": [{"name": "ranks"}]}}
    return V1Job.from_dict(
        {"metadata": {"name": "j"}, "spec": {"completions": 2, "template": template},
         "status": {"conditions": conditions, **status}}
    )  # fmt: skip


def _pod(phase: str, state: dict[str, Any] | None = None, condition: dict[str, str] | None = None) -> V1Pod:
    fixed = {"name": "ranks", "image": "", "imageID": "", "ready": False, "restartCount": 0}
    status: dict[str, Any] = {"phase": phase, "startTime": NOW.isoformat()}
    if state:
        status["containerStatuses"] = [{**fixed, "state": state}]
    if condition:
        status["conditions"] = [condition]
    spec = {"containers": [{"name": "ranks"}]}
    return V1Pod.from_dict({"metadata": {"name": "a"}, "spec": spec, "status": status})


def _ended(code: int, second: int = 0, reason: str = "Error") -> V1Pod:
    when = (NOW + timedelta(seconds=second)).isoformat()
    return _pod("Failed", {"terminated": {"exitCode": code, "reason": reason, "finishedAt": when}})


CRASH = _job("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")


@pytest.mark.parametrize(
    ("job", "pods", "code"),
    [
        (_job("Complete"), [_pod("Succeeded")] * 2, 0),
        (CRASH, [_ended(1, 0), _ended(3, 2)], 1),
        (CRASH, [_ended(75, 0), _ended(1, 0)], 1),
        (CRASH, [_ended(75, 0), _ended(1, 9)], 1),
        (CRASH, [_ended(137, 0, "OOMKilled")], 137),
        (CRASH, [], None),
        (_job("Failed", "DeadlineExceeded"), [_ended(75)], 75),
        (_job("Failed", "PodFailurePolicy", GONE.format(code=75, rule=1)), [], 75),
        (_job("Failed", "PodFailurePolicy", GONE.format(code=2, rule=2)), [], 2),
        (_job("Failed", "PodFailurePolicy", "in other words"), [], None),
        (_job("Failed", "PodFailurePolicy"), [_ended(2), _ended(75)], 2),
    ],
)  # fmt: skip
def test_an_end_has_the_code_of_the_pod_that_ended_badly_first(job, pods, code):
    found = status_of(job, pods)
    assert (found.phase, found.exit_code) == ("ended", code)


def test_what_the_kubelet_says_beyond_the_code_is_told():
    assert "OOMKilled" in status_of(CRASH, [_ended(137, 0, "OOMKilled")]).detail


def test_a_disrupted_pod_is_a_preemption_whatever_the_others_said():
    condition = {"type": "DisruptionTarget", "status": "True", "message": "node was drained"}
    job = _job(
        "Failed",
        "PodFailurePolicy",
        "Pod ns/a has condition DisruptionTarget matching FailJob rule at index 0",
    )
    found = status_of(job, [_ended(1), _pod("Failed", None, condition)])
    assert found.exit_code == 75
    assert "node was drained" in found.detail
    assert taken_back(job, found)


@pytest.mark.parametrize(("reason", "code"), [("DeadlineExceeded", 75), ("PodFailurePolicy", 2)])
def test_a_time_limit_or_bad_input_is_not_taken_back(reason, code):
    assert not taken_back(_job("Failed", reason), Status("ended", code))


def test_a_job_that_somebody_deleted_is_not_taken_back():
    job = _job("Failed", "PodFailurePolicy", GONE.format(code=75, rule=1))
    job.metadata.deletion_timestamp = NOW
    assert not taken_back(job, status_of(job, []))
    job.metadata.deletion_timestamp = None
    assert taken_back(job, status_of(job, []))


@pytest.mark.parametrize("end", ["Complete", "Failed", "FailureTarget"])
def test_a_job_is_not_over_while_one_of_its_pods_lives(end):
    """Before Kubernetes 1.31 a Job could be Failed while its pods still wrote their checkpoint."""
    assert status_of(_job(end), [_ended(1), _pod("Running")]).phase == "waiting"


def test_a_job_runs_when_all_its_pods_do():
    assert status_of(_job(), [_pod("Running")] * 2).phase == "running"
    assert status_of(_job(), [_pod("Running"), _pod("Succeeded")]).phase == "running"
    assert status_of(_job(), [_pod("Running")]).detail == "1 of its pods are not created yet"


def test_a_pending_pod_says_why():
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no GPU",
    }
    assert why_waiting(_pod("Pending", None, unschedulable)) == "a: Unschedulable: no GPU"
    assert status_of(_job(), [_pod("Running"), _pod("Pending", None, unschedulable)]).phase == "waiting"
    assert why_waiting(_pod("Pending")) == "a: Pending"


@pytest.mark.parametrize(
    ("reason", "minutes", "is_hopeless"),
    [
        ("InvalidImageName", 0, True),
        ("ImagePullBackOff", 4, False),
        ("ImagePullBackOff", 6, True),
        ("CreateContainerConfigError", 6, True),
        ("ContainerCreating", 60, False),
    ],
)
def test_what_cannot_start_is_given_up_once_the_kubelet_has_tried_for_a_while(reason, minutes, is_hopeless):
    pods = [_pod("Running"), _pod("Pending", {"waiting": {"reason": reason, "message": "m"}})]
    since = failing_since(pods, {}, 0.0)
    since = failing_since(pods, since, minutes * 60.0)
    assert (hopeless(pods, since, minutes * 60.0) is not None) is is_hopeless


def test_what_could_start_in_between_is_given_its_while_again():
    failing = _pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "m"}})
    since = failing_since([failing], {}, 0.0)
    assert since == {"a": 0.0}
    since = failing_since([_pod("Pending")], since, 200.0)
    assert since == {}
    since = failing_since([failing], since, 400.0)
    assert hopeless([failing], since, 699.0) is None
    assert hopeless([failing], since, 701.0) is not None


def test_a_job_is_overdue_from_when_it_may_start():
    started = _job(startTime=NOW.isoformat())
    assert not overdue(started, 60, NOW + timedelta(minutes=59))
    assert overdue(started, 60, NOW + timedelta(minutes=61))
    assert not overdue(started, 0, NOW + timedelta(days=9)), "0 is for ever"
    assert not overdue(_job(), 60, NOW), "a queue has not let it start"
