"""Rules of the API server that its OpenAPI document does not hold, for what the launcher renders.

Written from the API reference's prose: names, labels, indexed Jobs, pod failure policies, volumes, quantities.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTPE]i?)?")


def problems(kind: str, item: dict[str, Any]) -> list[str]:
    """What the API server would say of it, in order."""
    return list(_job(item) if kind == "jobs" else _service(item))


def _names(meta: dict[str, Any]) -> Iterator[str]:
    if not LABEL.fullmatch(meta.get("name", "")):
        yield "metadata.name: must be a DNS-1123 label"
    for key, value in meta.get("labels", {}).items():
        if not VALUE.fullmatch(value) or len(key.rpartition("/")[2]) > 63:
            yield f"metadata.labels: {key}={value}"


def _service(item: dict[str, Any]) -> Iterator[str]:
    yield from _names(item["metadata"])
    if not re.match("[a-z]", item["metadata"]["name"]):
        yield "metadata.name: must be a DNS-1035 label"
    if item["spec"].get("clusterIP") != "None" and not item["spec"].get("ports"):
        yield "spec.ports: required unless the Service is headless"


def _job(item: dict[str, Any]) -> Iterator[str]:
    yield from _names(item["metadata"])
    spec = item["spec"]
    template = spec["template"]
    yield from (problem for problem in _names({"name": "x", **template["metadata"]}) if "labels" in problem)
    if spec.get("completionMode") == "Indexed":
        if spec.get("completions") is None:
            yield "spec.completions: required when completion mode is Indexed"
        elif len(f"{item['metadata']['name']}-{spec['completions'] - 1}") > 63:
            yield "metadata.name: the pods' host names would be longer than 63 characters"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "spec.activeDeadlineSeconds: must be greater than 0"
    yield from _pod(template["spec"])
    if "podFailurePolicy" in spec:
        if template["spec"].get("restartPolicy") != "Never":
            yield "spec.template.spec.restartPolicy: must be Never with a podFailurePolicy"
        names = {container["name"] for container in template["spec"]["containers"]}
        for rule in spec["podFailurePolicy"]["rules"]:
            yield from _rule(rule, names)


def _rule(rule: dict[str, Any], containers: set[str]) -> Iterator[str]:
    if rule["action"] not in ("FailJob", "FailIndex", "Ignore", "Count"):
        yield f"podFailurePolicy: action {rule['action']}"
    if ("onExitCodes" in rule) == ("onPodConditions" in rule):
        yield "podFailurePolicy: one of onExitCodes and onPodConditions, not both"
    if codes := rule.get("onExitCodes"):
        if codes.get("containerName") not in containers:
            yield f"podFailurePolicy: no container {codes.get('containerName')}"
        if codes["operator"] not in ("In", "NotIn") or codes["values"] != sorted(set(codes["values"])):
            yield "podFailurePolicy: operator, or values not in order"
        if codes["operator"] == "In" and 0 in codes["values"]:
            yield "podFailurePolicy: 0 must not be in the values of In"


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    if not LABEL.fullmatch(pod.get("subdomain", "x")):
        yield "subdomain: must be a DNS-1123 label"
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in pod["containers"]:
        if not container.get("image"):
            yield "image: required"
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"volumeMounts: not found: {mount['name']}"
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
        if len(set(paths)) != len(paths):
            yield "volumeMounts: mountPath must be unique"
        for variable in container.get("env", ()):
            if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", variable["name"]):
                yield f"env: {variable['name']}"
        for name, quantity in container.get("resources", {}).get("limits", {}).items():
            if not QUANTITY.fullmatch(quantity):
                yield f"resources.limits: {name}: {quantity}"
