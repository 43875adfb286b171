"""The few requests the launcher makes, with every refusal as a sentence.

What the account needs in the namespace is `infra/kubernetes/access.yaml`. An API server that is away, overloaded or
restarting raises NotAnswering, and so does one that no longer knows a token that it knew; one that refuses raises
ConfigError with its own words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import ConfigError
from pipeline_lib.launch.base import NotAnswering
from pipeline_lib.launch.manifest import service_manifest
from pipeline_lib.params import KubernetesParams

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, V1Job, V1Pod

TIMEOUT_SECONDS = 30
UNAUTHORIZED, GONE, CONFLICT = 401, 404, 409
BUSY = (408, 429)
KUEUE = "kueue.x-k8s.io"
UID_LABEL = "batch.kubernetes.io/controller-uid"


class Cluster:
    """One namespace of one cluster."""

    def __init__(self, asked: KubernetesParams) -> None:
        try:
            from kubernetes import client
        except ModuleNotFoundError:
            raise ConfigError(
                "engine.launcher",
                "kubernetes",
                "its client is missing; install this project's extra `kubernetes`",
            ) from None
        self._namespace = asked.namespace
        self._is_known = False
        """The API server has known this client's token; should it not, that passes: it restarts, or reads the keys anew."""
        api = _connect(asked)
        self._jobs, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        self._groups, self._custom = client.ApisApi(api), client.CustomObjectsApi(api)

    def create_job(self, manifest: dict[str, Any]) -> V1Job | None:
        """The new Job; None when one of its name is there."""
        from kubernetes.client import V1Job
        from pydantic import ValidationError

        try:
            job = V1Job.model_validate(manifest)
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            raise ConfigError(
                "engine.kubernetes", field, f"not a field of a Job: {error.errors()[0]['msg']}"
            ) from None
        create = self._jobs.create_namespaced_job
        return self._ask(
            "create jobs", create, self._namespace, job, field_validation="Strict", none_for=(CONFLICT,)
        )

    def job(self, name: str) -> V1Job | None:
        """The Job of that name, if there is one."""
        return self._ask("get jobs", self._jobs.read_namespaced_job, name, self._namespace, none_for=(GONE,))

    def delete_job(self, job: V1Job) -> None:
        """Delete this very Job, not one that has taken its name; it stays until its pods have ended."""
        from kubernetes.client import V1DeleteOptions, V1Preconditions

        options = V1DeleteOptions(
            propagation_policy="Foreground", preconditions=V1Preconditions(uid=job.metadata.uid)
        )
        delete = self._jobs.delete_namespaced_job
        self._ask(
            "delete jobs", delete, job.metadata.name, self._namespace, body=options, none_for=(GONE, CONFLICT)
        )

    def pods(self, job: V1Job) -> list[V1Pod]:
        """The Job's pods that the API server still knows."""
        found = self._ask(
            "list pods",
            self._core.list_namespaced_pod,
            self._namespace,
            label_selector=f"{UID_LABEL}={job.metadata.uid}",
        )
        return list(found.items)

    def log(self, pod: V1Pod, lines: int) -> str:
        """The end of what a pod's container wrote; empty where it wrote nothing."""
        read = self._core.read_namespaced_pod_log
        text = self._ask(
            "get pods/log", read, pod.metadata.name, self._namespace, tail_lines=lines, none_for=(GONE,)
        )
        return text or ""

    def ensure_service(self, job: V1Job) -> None:
        """The Job's Service. One that an ended Job of the same name has left is replaced."""
        name, uid = job.metadata.name, job.metadata.uid
        create, read = self._core.create_namespaced_service, self._core.read_namespaced_service
        while (
            self._ask(
                "create services",
                create,
                self._namespace,
                service_manifest(name, uid),
                field_validation="Strict",
                none_for=(CONFLICT,),
            )
            is None
        ):
            there = self._ask("get services", read, name, self._namespace, none_for=(GONE,))
            if there is not None and any(owner.uid == uid for owner in there.metadata.owner_references or ()):
                return
            self._ask(
                "delete services",
                self._core.delete_namespaced_service,
                name,
                self._namespace,
                none_for=(GONE,),
            )

    def warning(self, job: V1Job) -> str:
        """The newest warning about the Job itself: why its pods are not created (a quota, an account)."""
        found = self._ask(
            "list events",
            self._core.list_namespaced_event,
            self._namespace,
            field_selector=f"involvedObject.uid={job.metadata.uid},type=Warning",
        )
        newest = max(found.items, key=lambda event: event.metadata.creation_timestamp, default=None)
        return f"{newest.reason}: {newest.message}" if newest else ""

    def queue_says(self, job: V1Job) -> tuple[str, bool]:
        """Why Kueue has not let the Job start, and whether that is for ever."""
        groups = self._ask("list API groups", self._groups.get_api_versions).groups
        version = next((group.preferred_version.version for group in groups if group.name == KUEUE), None)
        if version is None:
            return "engine.kubernetes.queue is set, but this cluster has no Kueue", True
        found = self._ask(
            f"list workloads.{KUEUE}",
            self._custom.list_namespaced_custom_object,
            KUEUE,
            version,
            self._namespace,
            "workloads",
            label_selector=f"{KUEUE}/job-uid={job.metadata.uid}",
        )
        for workload in found["items"]:
            if workload["spec"].get("active") is False:
                return "its workload was deactivated in Kueue", True
            for condition in workload.get("status", {}).get("conditions", ()):
                if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                    return condition["message"], condition["reason"] == "Inadmissible"
        return "Kueue has not let it start", False

    def _ask(
        self,
        what: str,
        request: Callable[..., Any],
        *args: Any,
        none_for: tuple[int, ...] = (),
        **options: Any,
    ) -> Any:
        """The answer; None for a status of `none_for`."""
        import urllib3
        from kubernetes.client import ApiException

        try:
            answer = request(*args, **options, _request_timeout=TIMEOUT_SECONDS)
        except ApiException as error:
            if error.status in none_for:
                self._is_known = True
                return None
            said = _message(error)
            if error.status in BUSY or error.status is None or error.status >= 500:
                raise NotAnswering(f"the API server does not answer: {said}") from None
            if error.status == UNAUTHORIZED and self._is_known:
                raise NotAnswering(f"the API server does not know this account now: {said}") from None
            raise ConfigError("engine.kubernetes", what, f"the API server refuses: {said}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NotAnswering(f"the API server does not answer: {error}") from None
        self._is_known = True
        return answer


def _connect(asked: KubernetesParams) -> ApiClient:
    """A client for the kubeconfig's context or, inside a cluster and with none named, for the pod's own account."""
    from kubernetes import client, config

    try:
        # The client reads KUBECONFIG when it is imported, which may have been long ago.
        file = os.environ.get("KUBECONFIG")
        if not asked.context and file is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            settings = client.Configuration()
            config.load_incluster_config(client_configuration=settings)
            return client.ApiClient(settings)
        return config.new_client_from_config(file, asked.context or None, persist_config=False)
    except (config.ConfigException, FileNotFoundError) as error:
        raise ConfigError(
            "engine.kubernetes.context", asked.context, f"{error}; set KUBECONFIG, or name a context of it"
        ) from None


def _message(error: Any) -> str:
    """The server's own sentence, where its answer has one."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
