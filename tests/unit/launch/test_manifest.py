"""What the launcher sends: accepted by the client's models (made from the published OpenAPI document) and by the API's rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient, V1Job, V1Service

from pipeline_lib.errors import ConfigError
from pipeline_lib.launch.job import Job
from pipeline_lib.launch.manifest import RULES, job_manifest, job_name, service_manifest
from pipeline_lib.params import KubernetesParams
from tests.integration.cluster.rules import problems

KEY = "0123456789abcdef"


def _job(root: Path, name: str = "train_r1_zero", **fields: Any) -> Job:
    job = Job(
        name=name,
        root=root,
        folder=root / "checkpoints" / f"{name}-{KEY}",
        module="m",
        nodes=2,
        ranks_per_node=1,
        gpus_per_node=0,
        threads=0,
        time_limit_minutes=0,
        grace_seconds=120,
    )
    return replace(job, **fields)


def _asked(root: Path, **fields: Any) -> KubernetesParams:
    return KubernetesParams(**{"image": "r1:1", "volumes": {"work": str(root)}, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"queue": "gpus", "service_account": "trainer", "secret": "s3", "labels": {"team": "reasoning"}},  # pragma: allowlist secret (the test's own)
        {"resources": {"cpu": "64", "memory": "900Gi", "rdma/hca": "8"}, "env": {"NCCL_DEBUG": "WARN"}},
        {"pod": {"nodeSelector": {"gpu": "h100"}, "tolerations": [{"operator": "Exists"}], "hostNetwork": True}},
    ],
)  # fmt: skip
def test_a_manifest_is_what_the_api_takes(tmp_path, fields):
    item = job_manifest(_job(tmp_path, gpus_per_node=8, ranks_per_node=8), _asked(tmp_path, **fields))
    assert ApiClient().sanitize_for_serialization(V1Job.model_validate(item)) == item
    assert problems("jobs", item) == []
    service = service_manifest(item["metadata"]["name"], "uid")
    assert ApiClient().sanitize_for_serialization(V1Service.model_validate(service)) == service
    assert problems("services", service) == []


def test_the_rules_would_notice(tmp_path):
    item = job_manifest(_job(tmp_path), _asked(tmp_path, resources={"memory": "64 GB"}))
    item["metadata"]["name"] = "Stage_1"
    item["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    assert len(problems("jobs", item)) == 3


def test_a_name_is_stage_worktree_and_key(tmp_path):
    name = job_name(_job(tmp_path, "distill@qwen-xs"))
    assert name.startswith("r1-distill-qwen-xs-")
    assert name.endswith(f"-{KEY}")
    assert name == job_name(_job(tmp_path, "distill@qwen-xs", time_limit_minutes=5))
    assert name != job_name(_job(tmp_path / "other", "distill@qwen-xs")), (
        "another worktree's outputs are others"
    )


def test_a_long_name_leaves_room_for_the_pods_index(tmp_path):
    name = job_name(_job(tmp_path, "train_student_rl@" + "a-very-long-student-name" * 3))
    assert len(f"{name}-99999") <= 63
    assert name.endswith(f"-{KEY}")


def test_the_grace_lies_before_the_time_limit(tmp_path):
    item = job_manifest(_job(tmp_path, time_limit_minutes=60), _asked(tmp_path))
    assert item["spec"]["activeDeadlineSeconds"] == 3600 - 120
    assert item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120
    assert "activeDeadlineSeconds" not in job_manifest(_job(tmp_path), _asked(tmp_path))["spec"]


def test_every_rule_has_its_meaning(tmp_path):
    rules = job_manifest(_job(tmp_path), _asked(tmp_path))["spec"]["podFailurePolicy"]["rules"]
    assert [rule.get("onExitCodes", {"values": [75]})["values"] for rule in rules] == [[c] for c in RULES]
    assert "onPodConditions" in rules[0]


@pytest.mark.parametrize("field", ["containers", "volumes", "subdomain", "initContainers", "hostPID"])
def test_only_where_a_pod_runs_is_to_be_given(tmp_path, field):
    with pytest.raises(ConfigError, match=rf"engine\.kubernetes\.pod\.{field}"):
        job_manifest(_job(tmp_path), _asked(tmp_path, pod={field: []}))
