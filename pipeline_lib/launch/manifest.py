"""A job as Kubernetes objects: an indexed Job with one pod a node, and the headless Service by which its pods meet.

Plain dicts as they would stand in a YAML file, so that nothing here depends on the client. Everything but the volumes'
paths is independent of the machine that submits. `docs/decisions/0011-kubernetes.md` says why it is made like this.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from pipeline_lib.errors import EXIT_BAD_INPUT, EXIT_PREEMPTED, ConfigError
from pipeline_lib.launch.job import Job
from pipeline_lib.orchestration.processes import SERVICES_MARK, STAGE_MARK
from pipeline_lib.params import KubernetesParams

CONTAINER = "ranks"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
JOB_LABEL = "batch.kubernetes.io/job-name"
RULES = (EXIT_PREEMPTED, EXIT_PREEMPTED, EXIT_BAD_INPUT)
"""What the rules of the pod failure policy mean: the first is for a pod that the cluster ended."""
KEPT_SECONDS = 24 * 3600
"""An ended Job stays for a day, for people to look at."""
FIRST_PORT, PORTS = 10000, 20000
"""Rank 0 listens at a port below the ephemeral range, by the job's name: two jobs on one node's network differ."""
POD_FIELDS = frozenset({
    "affinity", "dnsConfig", "dnsPolicy", "hostAliases", "hostNetwork", "imagePullSecrets", "nodeSelector",
    "preemptionPolicy", "priority", "priorityClassName", "resourceClaims", "runtimeClassName", "schedulerName",
    "securityContext", "tolerations", "topologySpreadConstraints",
})  # fmt: skip
"""Of a pod's spec: what `engine.kubernetes.pod` may say. No more containers, and nothing of the node but its network."""
NAME_LIMIT = 57
"""A pod's host name is the Job's name and `-<index>`; a host name has at most 63 characters."""


def job_name(job: Job) -> str:
    """Stage, worktree and content key as a DNS label: equal jobs of one worktree, and no others, have equal names."""
    stage, _, key = job.folder.name.rpartition("-")
    worktree = hashlib.sha256(str(job.root).encode()).hexdigest()[:6]
    room = NAME_LIMIT - len(f"r1---{worktree}{key}")
    return f"r1-{_slug(stage)[:room].strip('-')}-{worktree}-{key}"


def job_manifest(job: Job, asked: KubernetesParams) -> dict[str, Any]:
    """The Job. ConfigError where the section cannot be rendered."""
    _check(job, asked)
    name = job_name(job)
    labels = {"app.kubernetes.io/name": "deepseek-r1-pipeline", "stage": _slug(job.name)[:63], **asked.labels}
    spec: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": job.nodes,
        "parallelism": job.nodes,
        # A training job fails as a whole and is continued by a new Job: see `errors`.
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": _failure_rules()},
        # With a queue it is Kueue that lets the job start, all pods at once.
        "suspend": bool(asked.queue),
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "template": {"metadata": {"labels": labels}, "spec": _pod(job, asked, name)},
    }
    if job.time_limit_minutes:
        spec["activeDeadlineSeconds"] = job.time_limit_minutes * 60 - job.grace_seconds
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**labels, QUEUE_LABEL: asked.queue} if asked.queue else labels,
            "annotations": {"deepseek-r1/job": job.label, "deepseek-r1/worktree": str(job.root)},
        },
        "spec": spec,
    }


def service_manifest(name: str, uid: str) -> dict[str, Any]:
    """The Service that gives the pods of Job `name` their names, and that ends with it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}],
        },
        "spec": {
            "clusterIP": "None",
            # Pods find each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {JOB_LABEL: name},
        },
    }


def _pod(job: Job, asked: KubernetesParams, name: str) -> dict[str, Any]:
    owner = job.root.stat()
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "subdomain": name,
        "terminationGracePeriodSeconds": job.grace_seconds,
        # Files in the worktree belong to whoever owns the worktree.
        "securityContext": {"runAsUser": owner.st_uid, "runAsGroup": owner.st_gid},
        "enableServiceLinks": False,
        # Ranks need nothing of the API, and a program that got out of its sandbox is to find no way to it.
        "automountServiceAccountToken": False,
        "containers": [_container(job, asked, name)],
        "volumes": [
            # NCCL and vLLM share memory between processes; a container's own /dev/shm has 64 MB.
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
            *(
                {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
                for number, claim in enumerate(asked.volumes)
            ),
        ],
    }
    if asked.service_account:
        pod["serviceAccountName"] = asked.service_account
    return {**pod, **asked.pod}


def _container(job: Job, asked: KubernetesParams, name: str) -> dict[str, Any]:
    limits = dict(asked.resources)
    if job.gpus_per_node:
        limits[asked.gpu_resource] = str(job.gpus_per_node)
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": asked.image,
        "command": [asked.python, "-m", "pipeline_lib.launch.pod"],
        "args": [f"--name={name}", f"--nodes={job.nodes}", f"--ranks={job.ranks_per_node}", f"--port={_port(name)}",
                 f"--threads={job.threads}", job.module, str(job.folder)],
        "workingDir": str(job.root),
        "env": [
            *({"name": key, "value": value} for key, value in _environment(job, asked).items()),
            {"name": "R1_CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ],
        "resources": {"limits": limits},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            *({"name": f"volume-{number}", "mountPath": path} for number, path in enumerate(asked.volumes.values())),
        ],
    }  # fmt: skip
    if asked.secret:
        container["envFrom"] = [{"secretRef": {"name": asked.secret}}]
    return container


def _environment(job: Job, asked: KubernetesParams) -> dict[str, str]:
    """Of this process's environment only what this project calls its own: the rest may be secret, and is not a pod's."""
    ours = {
        k: v for k, v in os.environ.items() if k.startswith("R1_") and k not in (STAGE_MARK, SERVICES_MARK)
    }
    return {"HOME": "/tmp", "HF_HUB_OFFLINE": "1", **job.environment, **ours, **asked.env}


def _failure_rules() -> list[dict[str, Any]]:
    """Which ends of a pod end the job, in the order of `RULES`; any other bad end does too, as there is no retry."""
    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    told = [
        {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [code]}}
        for code in RULES[1:]
    ]
    return [disrupted, *told]


def _check(job: Job, asked: KubernetesParams) -> None:
    if not asked.image:
        raise ConfigError(
            "engine.kubernetes.image", "", "name the image that pods run (infra/kubernetes/Dockerfile)"
        )
    if not any(job.root.is_relative_to(path) for path in asked.volumes.values()):
        raise ConfigError(
            "engine.kubernetes.volumes",
            asked.volumes,
            f"no volume holds the worktree {job.root}; name the claim that is mounted here, and where",
        )
    if given := sorted(set(asked.pod) - POD_FIELDS):
        raise ConfigError(
            f"engine.kubernetes.pod.{given[0]}",
            asked.pod[given[0]],
            f"is not a parameter's to set; leave it out (there are {', '.join(sorted(POD_FIELDS))})",
        )
    if 0 < job.time_limit_minutes * 60 <= job.grace_seconds:
        raise ConfigError(
            "engine.kubernetes.time_limit_minutes",
            job.time_limit_minutes,
            f"must be longer than grace_seconds ({job.grace_seconds})",
        )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _port(name: str) -> int:
    return FIRST_PORT + int(hashlib.sha256(name.encode()).hexdigest(), 16) % PORTS
