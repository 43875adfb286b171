"""Jobs on a Kubernetes cluster, through its API and the official client.

A Job's name carries its stage, worktree and content key, and a namespace holds one object of a name: the API server
itself refuses a second copy, from whatever machine it is submitted. No file holds an id.
`docs/decisions/0011-kubernetes.md` says why.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from pipeline_lib.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED
from pipeline_lib.launch.base import JobFailed, Status
from pipeline_lib.launch.job import LOG, TAIL_LINES, Job, LogReader
from pipeline_lib.launch.jobstate import ending, failing_since, hopeless, overdue, status_of, taken_back
from pipeline_lib.launch.kubernetes_api import Cluster
from pipeline_lib.launch.manifest import job_manifest, job_name
from pipeline_lib.launch.pod import pod_log
from pipeline_lib.params import KubernetesParams

if TYPE_CHECKING:
    from kubernetes.client import V1Job, V1Pod

POLL_SECONDS = 3.0
REPLACE_SECONDS = 120.0
"""An ended Job of the same name is gone by then."""
REPLACE_LOOK_SECONDS = 0.5


class KubernetesLauncher:
    """Submits Jobs to the cluster of the kubeconfig, or of the pod that this process runs in."""

    def find(self, job: Job) -> KubernetesJob | None:
        """The Job of this name, unless it has ended."""
        asked = KubernetesParams.model_validate(job.settings)
        cluster = Cluster(asked)
        found = cluster.job(job_name(job))
        if found is None or _has_ended(cluster, found):
            return None
        return KubernetesJob(cluster, job, asked, found)

    def submit(self, job: Job) -> KubernetesJob:
        """Create the Job, unless a living one has its name; one that has ended makes room."""
        asked = KubernetesParams.model_validate(job.settings)
        cluster = Cluster(asked)
        running = KubernetesJob(cluster, job, asked, _create(cluster, job, asked))
        print(f"{job.name}: submitted as {running.title}", file=sys.stderr, flush=True)
        return running


def _has_ended(cluster: Cluster, found: V1Job) -> bool:
    return status_of(found, cluster.pods(found)).phase == "ended"


def _create(cluster: Cluster, job: Job, asked: KubernetesParams) -> V1Job:
    """The new Job, or the living one that has its name. One that has ended makes room."""
    manifest, deadline = job_manifest(job, asked), time.monotonic() + REPLACE_SECONDS
    while time.monotonic() < deadline:
        if (found := cluster.job(job_name(job))) is not None:
            if not _has_ended(cluster, found):
                return found
            cluster.delete_job(found)
            time.sleep(REPLACE_LOOK_SECONDS)
            continue
        for index in range(job.nodes):
            pod_log(job.folder, index).unlink(missing_ok=True)
        if created := cluster.create_job(manifest):
            return created
    raise JobFailed(f"{job.name}: the ended job {job_name(job)} does not go away; look at its finalizers")


class KubernetesJob:
    """A Job that the API server accepted."""

    poll_seconds = POLL_SECONDS

    def __init__(self, cluster: Cluster, job: Job, asked: KubernetesParams, found: V1Job) -> None:
        self._cluster, self._job, self._asked = cluster, job, asked
        self._log = (job.folder / LOG).open("w", encoding="utf-8")
        self._follow(found)

    def _follow(self, found: V1Job) -> None:
        """From now on this object stands for `found`."""
        self._found = found
        self._failing_since: dict[str, float] = {}
        self.new_output = PodLogs(self._job, self._log)
        if self._job.nodes > 1 and found.metadata.deletion_timestamp is None:
            self._cluster.ensure_service(found)

    @property
    def title(self) -> str:
        """Its namespace and name."""
        return f"Kubernetes job {self._asked.namespace}/{self._found.metadata.name}"

    def status(self) -> Status:
        """Ask the API server. A Job that cannot start as it was described is deleted."""
        # The pods first: one that vanishes in between has ended, and then the Job says so.
        pods = self._cluster.pods(self._found)
        found = self._cluster.job(self._found.metadata.name)
        if found is None or found.metadata.uid != self._found.metadata.uid:
            self.new_output.is_last = True
            return Status("ended", EXIT_PREEMPTED, f"{self.title} was deleted")
        status = status_of(found, pods)
        if status.phase == "ended":
            return self._again() if taken_back(found, status) else self._note_end(status, pods)
        return status if ending(found) else self._before_the_end(found, pods, status)

    def _before_the_end(self, found: V1Job, pods: list[V1Pod], status: Status) -> Status:
        if found.spec.suspend:
            return self._suspended(found)
        now = time.monotonic()
        self._failing_since = failing_since(pods, self._failing_since, now)
        if why := hopeless(pods, self._failing_since, now):
            self._cluster.delete_job(found)
            return Status("ended", EXIT_BAD_INPUT, f"{why}. {self.title} is deleted; mend engine.kubernetes")
        if status.phase == "running":
            return status
        why = (len(pods) < self._job.nodes and self._cluster.warning(found)) or status.detail
        if overdue(found, self._asked.start_minutes, datetime.now(UTC)):
            return self._held(f"it could not start for {self._asked.start_minutes} minutes: {why}")
        return Status("waiting", None, why)

    def _suspended(self, found: V1Job) -> Status:
        if not self._asked.queue:
            return self._held("somebody suspended it")
        why, for_ever = self._cluster.queue_says(found)
        return self._held(why) if for_ever else Status("waiting", None, why)

    def _held(self, why: str) -> Status:
        name = f"job/{self._found.metadata.name} --namespace {self._asked.namespace}"
        return Status(
            "held",
            None,
            f"{self.title} does not start: {why}. Clear the cause and start the stage again, which waits for this job; or "
            f"`kubectl delete {name}` and change engine.kubernetes",
        )

    def _again(self) -> Status:
        """A Job whose place the cluster took back queues again, and goes on from its checkpoint."""
        print(f"{self.title}: its place was taken back; it is submitted again", file=sys.stderr, flush=True)
        self._log.seek(0)
        self._log.truncate()
        self._follow(_create(self._cluster, self._job, self._asked))
        return Status("waiting", None, "submitted again")

    def _note_end(self, status: Status, pods: Iterable[V1Pod]) -> Status:
        """Where a pod failed before it could write to the shared log, what its container said is the log."""
        self.new_output.is_last = True
        logs = [pod_log(self._job.folder, index) for index in range(self._job.nodes)]
        if status.exit_code and not any(log.exists() for log in logs):
            for pod in pods:
                self._log.write(self._cluster.log(pod, TAIL_LINES))
            self._log.flush()
        return status

    def stop(self) -> None:
        """Delete the Job once its pods have ended; they get SIGTERM and their grace."""
        self._cluster.delete_job(self._found)

    def close(self) -> None:
        """Let go of the log."""
        self._log.close()


class PodLogs:
    """The logs of all pods as one: whole lines, pod by pod, read on from where the last call ended."""

    is_last = False
    """Nothing will follow: a line without an end is given too."""

    def __init__(self, job: Job, log: TextIO) -> None:
        self._readers = [LogReader(pod_log(job.folder, index)) for index in range(job.nodes)]
        self._begun = [""] * job.nodes
        self._log = log

    def __call__(self) -> str:
        """What was written since the last call; it is in the job's log too."""
        lines = []
        for index, read in enumerate(self._readers):
            text = self._begun[index] + read()
            whole = text if self.is_last else text[: text.rfind("\n") + 1]
            self._begun[index] = text[len(whole) :]
            lines.append(whole)
        new = "".join(lines)
        self._log.write(new)
        self._log.flush()
        return new


LAUNCHER = KubernetesLauncher()
