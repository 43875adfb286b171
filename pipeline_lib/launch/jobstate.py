"""What a Job and its pods, as the API shows them, mean for somebody who waits. Pure functions; no request is made here.

The exit code comes from the pods that are still there: they say how they ended and when. Pods that were told to stop
vanish with their end, and then the Job's condition says which rule of its failure policy ended it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline_lib.errors import EXIT_PREEMPTED
from pipeline_lib.launch.base import Status
from pipeline_lib.launch.manifest import RULES

if TYPE_CHECKING:
    from kubernetes.client import V1Job, V1JobCondition, V1Pod

BAD_IMAGE = {"ErrImageNeverPull", "InvalidImageName"}
"""Why a container waits in vain, whatever happens."""
BAD_START = {
    "CreateContainerConfigError", "CreateContainerError", "ErrImagePull", "ImageInspectError", "ImagePullBackOff",
    "RegistryUnavailable", "RunContainerError",
}  # fmt: skip
"""Why it waits in vain when the kubelet still says so after `START_PATIENCE`: a registry may be away for a moment."""
START_PATIENCE = 300.0
"""Seconds."""


def finished(job: V1Job) -> V1JobCondition | None:
    """The condition that ends the Job: Complete or Failed; None while it lives."""
    return _condition(job, "Complete") or _condition(job, "Failed")


def ending(job: V1Job) -> bool:
    """True for a Job that was deleted or that failed, while its pods may still end."""
    return bool(finished(job) or job.metadata.deletion_timestamp or _condition(job, "FailureTarget"))


def status_of(job: V1Job, pods: Sequence[V1Pod]) -> Status:
    """Where a Job stands that may start: it runs, it waits (and for what), it ends, it ended (and how)."""
    end = finished(job)
    alive = [pod for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]
    if end is not None and not alive:
        return Status("ended", 0) if end.type == "Complete" else _failure(end, pods)
    if ending(job):
        # Not over while a process of it may live, whatever the Job says: a second copy would write to the same files.
        return Status("waiting", None, f"{len(alive)} of its pods are still ending")
    waiting = [pod for pod in alive if pod.status.phase == "Pending"]
    missing = job.spec.completions - len(pods)
    if not waiting and missing <= 0:
        return Status("running")
    why = why_waiting(waiting[0]) if waiting else f"{missing} of its pods are not created yet"
    return Status("waiting", None, why)


def taken_back(job: V1Job, ended: Status) -> bool:
    """True when it was the cluster that ended the job: a drained node, a pod or a queue with a higher priority.

    Its pods end in the same way when somebody deletes the Job, as `stop` does; then it is not to start again.
    """
    end = finished(job)
    if end is None or job.metadata.deletion_timestamp is not None:
        return False
    return ended.exit_code == EXIT_PREEMPTED and end.reason == "PodFailurePolicy"


def failing_since(pods: Sequence[V1Pod], before: Mapping[str, float], now: float) -> dict[str, float]:
    """Pods that the kubelet says it cannot start, and since when it has said so at every look.

    `before`: what the look before returned; `now`: on a clock that nobody sets.
    """
    names = [
        pod.metadata.name
        for pod in pods
        if any(reason in BAD_IMAGE | BAD_START for reason, _ in _waiting_containers(pod))
    ]
    return {name: before.get(name, now) for name in names}


def hopeless(pods: Sequence[V1Pod], since: Mapping[str, float], now: float) -> str | None:
    """Why a pod will never start as it was described; None where it may. `since`: of `failing_since`."""
    for pod in pods:
        name = pod.metadata.name
        tried = now - since.get(name, now)
        for reason, message in _waiting_containers(pod):
            if reason in BAD_IMAGE or (reason in BAD_START and tried > START_PATIENCE):
                return f"{name} cannot start: {reason}: {message}"
    return None


def overdue(job: V1Job, minutes: int, now: datetime) -> bool:
    """True when a Job that could start has not for so long."""
    started = job.status.start_time
    return bool(minutes) and started is not None and now - started > timedelta(minutes=minutes)


def why_waiting(pod: V1Pod) -> str:
    """Why a pending pod does not run, in Kubernetes' words."""
    for reason, message in _waiting_containers(pod):
        return f"{pod.metadata.name}: {reason}: {message}" if message else f"{pod.metadata.name}: {reason}"
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{pod.metadata.name}: {condition.reason}: {condition.message}"
    return f"{pod.metadata.name}: {pod.status.reason or 'Pending'}"


def _failure(end: V1JobCondition, pods: Sequence[V1Pod]) -> Status:
    """How a failed Job ended, as its pods tell."""
    if end.reason == "DeadlineExceeded":
        return Status("ended", EXIT_PREEMPTED, "its time limit came (engine.kubernetes.time_limit_minutes)")
    for pod in pods:
        for condition in pod.status.conditions or ():
            if condition.type == "DisruptionTarget" and condition.status == "True":
                return Status(
                    "ended", EXIT_PREEMPTED, f"{pod.metadata.name} was disrupted: {condition.message}"
                )
    if ends := _bad_ends(pods):
        # Pods that are told to stop because another one failed leave with 75, in the same second.
        _, _, first, detail = min(ends)
        return Status("ended", first, detail)
    rule = re.search(r"rule at index (\d+)", end.message or "")
    code = RULES[int(rule[1])] if rule and int(rule[1]) < len(RULES) else None
    return Status("ended", code, f"{end.reason}: {end.message}")


def _bad_ends(pods: Sequence[V1Pod]) -> list[tuple[bool, datetime, int, str]]:
    """Whether it is a preemption, when, exit code, what the kubelet says beyond the code."""
    ends = []
    for pod in pods:
        for container in pod.status.container_statuses or ():
            end = container.state.terminated
            if end is None or end.exit_code == 0:
                continue
            known = end.reason in (None, "Error", "Completed")
            detail = "" if known else f"{pod.metadata.name}: {end.reason} {end.message or ''}".strip()
            when = end.finished_at or datetime.max.replace(tzinfo=UTC)
            ends.append((end.exit_code == EXIT_PREEMPTED, when, end.exit_code, detail))
    return ends


def _waiting_containers(pod: V1Pod) -> list[tuple[str, str]]:
    states = [container.state.waiting for container in pod.status.container_statuses or ()]
    return [(state.reason or "", state.message or "") for state in states if state is not None]


def _condition(job: V1Job, kind: str) -> V1JobCondition | None:
    for condition in job.status.conditions or ():
        if condition.type == kind and condition.status == "True":
            return condition
    return None
