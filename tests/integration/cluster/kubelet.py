"""A scheduler and a kubelet for `api.ApiServer`: pods are processes of this machine.

A container's first process is process 1 of a PID namespace, with the cluster's names in /etc/hosts of a mount namespace,
and the environment that its manifest gives and no other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from tests.integration.cluster.api import ApiServer, now

IN_NAMESPACES = [
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]
ENTER = 'mount --bind "$HOSTS_FILE" /etc/hosts && unset HOSTS_FILE && cd "$WORKING_DIR" && unset WORKING_DIR && exec "$@"'


class Kubelet:
    """Two nodes' worth of it."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.images = {"r1:1"}
        self.secrets: dict[str, dict[str, str]] = {}
        self.claims: set[str] = set()
        self.gpus = 0
        """What one node has."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._told: dict[int, float] = {}
        """When a container's process was sent SIGTERM."""
        self._hosts = api.folder / "hosts"
        self._hosts.write_text("127.0.0.1 localhost\n")

    def stop(self) -> None:
        """Kill what runs."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def sync(self, pod: dict[str, Any]) -> None:
        """Bring one pod closer to what it should be."""
        name, status = pod["metadata"]["name"], pod["status"]
        deleted = "deletionTimestamp" in pod["metadata"]
        if status["phase"] == "Pending":
            if deleted:
                status["phase"] = "Failed"
            elif self._may_start(pod):
                self._processes[name] = self._start(pod)
                status["phase"] = "Running"
            return
        process = self._processes.get(name)
        if status["phase"] != "Running" or process is None:
            return
        if (code := process.poll()) is not None:
            self._note_end(pod, code if code >= 0 else 128 - code)
            del self._processes[name]
        elif deleted:
            self._terminate(pod, process)
        self._write_hosts()

    def _may_start(self, pod: dict[str, Any]) -> bool:
        status, [container] = pod["status"], pod["spec"]["containers"]
        wanted = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        claims = {
            v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "emptyDir" not in v
        }
        why = ""
        if wanted > self.gpus:
            why = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
        elif missing := claims - self.claims:
            why = f'persistentvolumeclaim "{missing.pop()}" not found'
        if why:
            status["conditions"] = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            ]
            return False
        status.setdefault("startTime", now())
        secret = next((source["secretRef"]["name"] for source in container.get("envFrom", ())), None)
        waiting = None
        if container["image"] not in self.images:
            waiting = {
                "reason": "ImagePullBackOff",
                "message": f'Back-off pulling image "{container["image"]}"',
            }
        elif secret is not None and secret not in self.secrets:
            waiting = {"reason": "CreateContainerConfigError", "message": f'secret "{secret}" not found'}
        if waiting:
            status["containerStatuses"] = [_container_status(container, {"waiting": waiting})]
        return waiting is None

    def _start(self, pod: dict[str, Any]) -> subprocess.Popen[bytes]:
        [container] = pod["spec"]["containers"]
        mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
        mounted = any(Path(container["workingDir"]).is_relative_to(path) for path in mounts)
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
        for variable in container["env"]:
            if "value" in variable:
                env[variable["name"]] = variable["value"]
            else:
                assert variable["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
                env[variable["name"]] = container["resources"]["limits"].get("cpu", "2")
        for source in container.get("envFrom", ()):
            env |= self.secrets[source["secretRef"]["name"]]
        env["JOB_COMPLETION_INDEX"] = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        env["HOSTS_FILE"] = str(self._hosts)
        # A path that no volume holds is an empty directory of the container.
        env["WORKING_DIR"] = container["workingDir"] if mounted else str(self.api.folder)
        with (self.api.folder / f"{pod['metadata']['name']}.out").open("wb") as out:
            return subprocess.Popen(
                [*IN_NAMESPACES, "sh", "-c", ENTER, "sh", *container["command"], *container["args"]],
                env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/",
            )  # fmt: skip

    def _terminate(self, pod: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        """SIGTERM once, SIGKILL after the grace; both to the container's process 1."""
        told = self._told.get(process.pid)
        if told is not None and time.monotonic() - told < pod["spec"]["terminationGracePeriodSeconds"]:
            return
        for first in psutil.Process(process.pid).children():
            os.kill(first.pid, signal.SIGTERM if told is None else signal.SIGKILL)
            self._told.setdefault(process.pid, time.monotonic())

    def _note_end(self, pod: dict[str, Any], code: int) -> None:
        [container] = pod["spec"]["containers"]
        end = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": now()}
        pod["status"]["containerStatuses"] = [_container_status(container, {"terminated": end})]
        pod["status"]["phase"] = "Failed" if code else "Succeeded"

    def _write_hosts(self) -> None:
        """The cluster's DNS: a pod that runs has a name in its subdomain if a headless Service of that name selects it."""
        lines = ["127.0.0.1 localhost"]
        for pod in self.api.objects["pods"].values():
            service = self.api.objects["services"].get(pod["spec"]["subdomain"], {}).get("spec")
            labels = pod["metadata"]["labels"].items()
            if service and pod["status"]["phase"] == "Running" and service["selector"].items() <= labels:
                assert service["clusterIP"] == "None"
                assert service["publishNotReadyAddresses"]
                lines.append(f"127.0.0.1 {pod['spec']['hostname']}.{pod['spec']['subdomain']}")
        text = "\n".join(lines) + "\n"
        if self._hosts.read_text() != text:
            self._hosts.write_text(text)


def _container_status(container: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    fixed = {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": False,
        "restartCount": 0,
    }
    return {**fixed, "state": state}
