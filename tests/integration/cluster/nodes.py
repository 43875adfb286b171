"""The Job controller, in a thread of this process, for `api.ApiServer`.

It decides in the order of Kubernetes' own (pkg/controller/job): pod failure policy, back-off limit, deadline, and only
then suspension; a failed Job is FailureTarget until its pods have ended, and then Failed; pods that were deleted vanish
with their end.

Not covered: several machines, real DNS, cgroups, GPUs, images, Kueue's own decisions.
"""

from __future__ import annotations

import copy
import threading
import time
from datetime import UTC, datetime
from typing import Any

from tests.integration.cluster.api import NAMESPACE, ApiServer, now
from tests.integration.cluster.kubelet import Kubelet

COLLECT_SECONDS = 0.5


class Nodes:
    """The Job controller's thread, which lets the kubelet work too."""

    def __init__(self, api: ApiServer) -> None:
        self.api, self.kubelet = api, Kubelet(api)
        self.pod_quota = 99
        self._ended_at: dict[str, float] = {}
        """When the last pod of a deleted Job had ended, by the Job's uid."""
        self._over = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Kill what runs and end."""
        self._over.set()
        self._thread.join()
        self.kubelet.stop()

    def _run(self) -> None:
        try:
            while not self._over.wait(0.05):
                with self.api.lock:
                    for job in list(self.api.objects["jobs"].values()):
                        self._sync_job(job)
                    for pod in list(self.api.objects["pods"].values()):
                        self.kubelet.sync(pod)
        except BaseException as error:
            self.failure = error
            raise

    def pods(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        """The Job's pods."""
        uid = job["metadata"]["uid"]
        every = self.api.objects["pods"].values()
        return [pod for pod in every if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _sync_job(self, job: dict[str, Any]) -> None:
        pods = self.pods(job)
        alive = [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
        if "deletionTimestamp" in job["metadata"]:
            self._end(alive)
            if not alive:
                self._collect(job, pods)
            return
        conditions = job["status"].setdefault("conditions", [])
        if any(condition["type"] in ("Complete", "Failed") for condition in conditions):
            return
        target = next((c for c in conditions if c["type"] == "FailureTarget"), None) or self._failure(
            job, pods
        )
        if target:
            if target not in conditions:
                conditions.append(target)
            self._end(alive)
            if not alive:
                conditions.append({**target, "type": "Failed"})
                self._drop_deleted(pods)
        elif sum(pod["status"]["phase"] == "Succeeded" for pod in pods) >= job["spec"]["completions"]:
            conditions.append({"type": "Complete", "status": "True", "lastTransitionTime": now()})
        elif job["spec"].get("suspend"):
            self._end(alive)
            self._drop_deleted(pods)
            job["status"].pop("startTime", None)
        else:
            job["status"].setdefault("startTime", now())
            self._create_missing(job, pods)

    def _failure(self, job: dict[str, Any], pods: list[dict[str, Any]]) -> dict[str, Any] | None:
        def target(reason: str, message: str) -> dict[str, Any]:
            return {"type": "FailureTarget", "status": "True", "reason": reason, "message": message,
                    "lastTransitionTime": now()}  # fmt: skip

        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        for pod in failed:
            for index, rule in enumerate(job["spec"].get("podFailurePolicy", {}).get("rules", ())):
                if _matches(rule, pod):
                    assert rule["action"] == "FailJob"
                    name = f"{NAMESPACE}/{pod['metadata']['name']}"
                    said = f"Container ranks for pod {name} failed with exit code {_exit_code(pod)}"
                    if "onPodConditions" in rule:
                        said = f"Pod {name} has condition DisruptionTarget"
                    return target("PodFailurePolicy", f"{said} matching FailJob rule at index {index}")
        if len(failed) > job["spec"]["backoffLimit"]:
            return target("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        limit, started = job["spec"].get("activeDeadlineSeconds"), job["status"].get("startTime")
        if limit and started and _age(started) >= limit:
            return target("DeadlineExceeded", "Job was active longer than specified deadline")
        return None

    def _create_missing(self, job: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        there = {pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in pods}
        for index in range(job["spec"]["completions"]):
            if str(index) in there:
                continue
            if len(self.api.objects["pods"]) >= self.pod_quota:
                self._warn(
                    job,
                    "FailedCreate",
                    f"pods are forbidden: exceeded quota: pods, limited: {self.pod_quota}",
                )
                continue
            name, template = job["metadata"]["name"], copy.deepcopy(job["spec"]["template"])
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"]}
            labels = template["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": str(index)}
            meta = {
                "name": f"{name}-{index}-{len(self.api.created)}",
                "labels": labels,
                "ownerReferences": [owner],
            }
            template["spec"]["hostname"] = f"{name}-{index}"
            self.api.add("pods", {"metadata": meta, "spec": template["spec"], "status": {"phase": "Pending"}})

    def _warn(self, job: dict[str, Any], reason: str, message: str) -> None:
        if not self.api.objects["events"]:
            about = {"uid": job["metadata"]["uid"], "name": job["metadata"]["name"]}
            self.api.add("events", {"metadata": {"name": f"{job['metadata']['name']}.1"}, "involvedObject": about,
                                    "type": "Warning", "reason": reason, "message": message})  # fmt: skip

    def _end(self, pods: list[dict[str, Any]]) -> None:
        for pod in pods:
            pod["metadata"].setdefault("deletionTimestamp", now())

    def _drop_deleted(self, pods: list[dict[str, Any]]) -> None:
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"] and pod["status"]["phase"] in ("Succeeded", "Failed"):
                del self.api.objects["pods"][pod["metadata"]["name"]]

    def _collect(self, job: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        """What the garbage collector does, in its own time, to the rest of a deleted Job; until then it is Failed."""
        if job["metadata"]["uid"] not in self._ended_at:
            self._ended_at[job["metadata"]["uid"]] = time.monotonic()
            if target := self._failure(job, pods):
                job["status"].setdefault("conditions", []).append({**target, "type": "Failed"})
        if time.monotonic() - self._ended_at[job["metadata"]["uid"]] < COLLECT_SECONDS:
            return
        for pod in pods:
            del self.api.objects["pods"][pod["metadata"]["name"]]
        for name, service in list(self.api.objects["services"].items()):
            if service["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]:
                del self.api.objects["services"][name]
        del self.api.objects["jobs"][job["metadata"]["name"]]

    def disrupt(self, pod: dict[str, Any]) -> None:
        """What a drained node does to a pod of it."""
        pod["status"]["conditions"] = [
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
             "message": "Eviction API: evicting", "lastTransitionTime": now()}
        ]  # fmt: skip
        self._end([pod])


def _matches(rule: dict[str, Any], pod: dict[str, Any]) -> bool:
    status = pod["status"]
    if "onPodConditions" in rule:
        wanted = {(condition["type"], condition["status"]) for condition in rule["onPodConditions"]}
        return any((c["type"], c["status"]) in wanted for c in status.get("conditions", ()))
    return _exit_code(pod) in rule["onExitCodes"]["values"]


def _exit_code(pod: dict[str, Any]) -> int:
    codes = [
        s["state"].get("terminated", {}).get("exitCode", 0)
        for s in pod["status"].get("containerStatuses", ())
    ]
    return max(codes, default=0)


def _age(written: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(written)).total_seconds()
