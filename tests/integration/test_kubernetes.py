"""Jobs through the official client on an API server, a Job controller and a kubelet of this process (`cluster/`).

The requests, the refusals, the pods' processes, their signals and their exit codes are real. Not covered: a real cluster,
several machines, GPUs, images, Kueue's own controller, file systems with caches of their own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import ConfigError, DataError, Preempted
from pipeline_lib.launch import run_job
from pipeline_lib.launch.base import JobFailed, JobHeld, NotAnswering
from pipeline_lib.params import KubernetesParams
from pipeline_lib.training.spec import JobSpec
from tests.integration.cluster.api import NAMESPACE, ApiServer
from tests.integration.cluster.launched import (
    PATIENCE_S,
    ROOT,
    both_wait,
    parent_program,
    require_same_end,
    slow_world,
    until,
)
from tests.integration.cluster.nodes import Nodes
from tests.unit.training.tiny import grpo_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Cluster:
    """The running control plane, and a kubeconfig for it in the environment."""

    api: ApiServer
    nodes: Nodes

    @property
    def jobs(self) -> dict[str, Any]:
        """The Jobs there are, by name."""
        return self.api.objects["jobs"]

    def job(self) -> dict[str, Any]:
        """The one there is."""
        [job] = self.jobs.values()
        return job

    def pods(self) -> list[dict[str, Any]]:
        """The one Job's pods that run, by index."""
        pods = [pod for pod in self.nodes.pods(self.job()) if pod["status"]["phase"] == "Running"]
        return sorted(pods, key=lambda pod: pod["metadata"]["name"])


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    api = ApiServer(tmp_path_factory.mktemp("cluster"))
    nodes = Nodes(api)
    nodes.kubelet.claims.add("work")
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig()))
    monkeypatch.setattr("pipeline_lib.launch.kubernetes.KubernetesJob.poll_seconds", 0.2)
    yield Cluster(api, nodes)
    nodes.stop()
    api.stop()
    assert nodes.failure is None


PROGRAM = """
import json, os, signal, socket, sys, time
from pathlib import Path
rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
def stop(*_):
    print("Preempted: stopped on request", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGTERM, stop)
folder = Path(sys.argv[-1])
behaviour = json.loads((folder / "spec.json").read_text())["section"]["behaviour"]
address = socket.gethostbyname(os.environ["MASTER_ADDR"])
print(f"rank {rank} of {size} at {address}, threads {os.environ['OMP_NUM_THREADS']}", flush=True)
with open(f"started-{rank}", "a") as file:
    file.write("x")
if behaviour == "crash" and rank == "1":
    raise RuntimeError("boom at step 3")
if behaviour == "bad":
    print("DataError: the file is empty; fill it", flush=True)
    raise SystemExit(2)
if behaviour == "environment":
    Path("environment").write_text(json.dumps(dict(os.environ)))
while behaviour in ("wait", "crash") and not Path("go").exists():
    time.sleep(0.05)
# As in a process group, nobody is done before everybody has come.
meeting = (address, int(os.environ["MASTER_PORT"]))
if rank == "0":
    with socket.create_server(meeting) as server:
        guests = [server.accept() for _ in range(1, int(size))]
while rank != "0":
    try:
        socket.create_connection(meeting).close()
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
if rank == "0":
    Path("model").write_text("weights")
    (folder / "result.json").write_text('{"loss": 1.5}')
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Path:
    """A worktree whose training program is a small stand-in, for what is about clusters and not about training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakejob.py").write_text(PROGRAM)
    (tmp_path / "input").write_text("data")
    monkeypatch.setattr("pipeline_lib.launch.job.MODULE", "fakejob")
    return tmp_path


def _asked(root: Path, **fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "namespace": NAMESPACE,
        "image": "r1:1",
        "python": sys.executable,
        "volumes": {"work": str(root)},
        "env": {"PYTHONPATH": f"{root}:{ROOT}"},
        "grace_seconds": 30,
        **fields,
    }
    return KubernetesParams(**given).model_dump(mode="json")


def _spec(behaviour: str, **asked: Any) -> JobSpec:
    section = _asked(Path.cwd(), **asked)
    return JobSpec(
        kind="sft",
        stage="train_cold_start_sft",
        seed=1,
        section={"behaviour": behaviour},
        engine={"launcher": "kubernetes", "world_size": 2, "threads": 0, "kubernetes": section},
        inputs={"model": "input"},
        outputs={"model": "model"},
    )


@dataclass(frozen=True)
class Parent:
    """The launcher in a process of its own, to be killed or signalled."""

    process: subprocess.Popen[str]
    errors: Path

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.errors.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Its exit code, output and errors, once it has ended."""
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, self.said()


@pytest.fixture
def start() -> Iterator[Callable[..., Parent]]:
    """Starts launchers; none outlives the test."""
    parents: list[Parent] = []

    def begin(world: Path, spec: JobSpec, module: str = "fakejob") -> Parent:
        (world / "spec.json").write_text(spec.to_json())
        command = [sys.executable, "-c", parent_program("kubernetes", "KubernetesJob", module)]
        errors = world / f"errors-{len(parents)}"
        with errors.open("w") as file:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=world)
        parents.append(Parent(process, errors))
        return parents[-1]

    yield begin
    for parent in parents:
        with parent.process as process:
            process.kill()


def _started(world: Path) -> bool:
    return all((world / f"started-{rank}").exists() for rank in (0, 1))


def test_a_job_runs_in_two_pods_and_leaves_nothing_but_its_outputs(world, cluster, capfd):
    assert run_job(_spec("ok", resources={"cpu": "3"})) == {"loss": 1.5}
    assert (world / "model").read_text() == "weights"
    assert list((world / "checkpoints").iterdir()) == []
    said = capfd.readouterr().err
    assert "submitted as Kubernetes job training/r1-train-cold-start-sft-" in said
    assert "rank 0 of 2 at 127.0.0.1, threads 3" in said, "the log is not passed on"
    assert "rank 1 of 2 at 127.0.0.1, threads 3" in said
    assert len(cluster.api.created) == 1


def test_gpus_fill_pods(world, cluster):
    cluster.nodes.kubelet.gpus = 8
    assert run_job(_spec("ok", gpus_per_node=2)) == {"loss": 1.5}
    assert cluster.job()["spec"]["completions"] == 1
    limits = cluster.job()["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": "2"}
    assert cluster.api.objects["services"] == {}, "one pod has nobody to find"


def test_one_rank_that_crashes_ends_the_job_and_shows_its_log(world):
    with pytest.raises(JobFailed, match=r"exit code 1[\s\S]*boom at step 3"):
        run_job(_spec("crash"))


def test_bad_input_is_one_line(world):
    with pytest.raises(DataError, match=r"^the file is empty; fill it$"):
        run_job(_spec("bad"))


def test_a_pod_that_ends_before_it_can_log_shows_what_its_container_said(world):
    """The interpreter below the environment, which has none of its packages: an image that lacks them."""
    bare = os.path.realpath(sys.executable)
    with pytest.raises(JobFailed, match=r"No module named .?pipeline_lib"):
        run_job(_spec("ok", python=bare, env={"PYTHONPATH": ""}))


def test_pods_see_what_the_manifest_says_and_no_secret_of_the_launcher(world, cluster, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the launcher")
    monkeypatch.setenv("R1_STAGE_MARK", "stage-1")
    monkeypatch.setenv("R1_FILES_URL", "http://files")
    cluster.nodes.kubelet.secrets["s3"] = {"AWS_ACCESS_KEY_ID": "of the Secret"}
    run_job(_spec("environment", secret="s3"))  # pragma: allowlist secret (the test's own)
    seen = json.loads((world / "environment").read_text())
    assert seen["AWS_ACCESS_KEY_ID"] == "of the Secret"
    assert seen["R1_FILES_URL"] == "http://files"
    assert not {"AWS_SECRET_ACCESS_KEY", "R1_STAGE_MARK"} & set(seen)
    assert "of the" not in json.dumps(cluster.job())


def test_a_launcher_that_was_killed_finds_its_job_again(world, cluster, start):
    parent = start(world, _spec("wait"))
    until(lambda: _started(world))
    parent.signal(signal.SIGKILL)
    # More time for the same job is the same job.
    second = start(world, _spec("wait", time_limit_minutes=9))
    until(lambda: "already running as Kubernetes job" in second.said())
    (world / "go").touch()
    code, out, err = second.end()
    assert code == 0, err
    assert "rank 1 of 2" in err, "the log is not read from its beginning"
    assert "1.5" in out
    assert len(cluster.api.created) == 1, "a second job was submitted"
    assert (world / "started-1").read_text() == "x"


def test_a_launcher_killed_between_job_and_service_is_mended_by_the_next(world, cluster, start):
    cluster.api.forbidden = {"create services"}
    with pytest.raises(ConfigError, match="cannot create resource"):
        run_job(_spec("ok"))
    until(lambda: len(cluster.pods()) == 2)
    cluster.api.forbidden = set()
    assert run_job(_spec("ok")) == {"loss": 1.5}
    assert len(cluster.api.created) == 1


def test_two_submissions_at_once_are_one_job(world, cluster):
    """Past every lock of this machine, as from two machines: the name is the lock."""
    from pipeline_lib.launch.job import describe, prepare_folder
    from pipeline_lib.launch.kubernetes import LAUNCHER

    (world / "go").touch()
    job = describe(_spec("ok"), world, prepare_folder(_spec("ok"), world))
    first, second = LAUNCHER.submit(job), LAUNCHER.submit(job)
    assert first.title == second.title
    assert len(cluster.api.created) == 1
    first.stop()
    until(lambda: second.status().phase == "ended")


def test_sigterm_to_the_launcher_is_a_checkpoint_and_a_retry_is_a_new_job(world, cluster, start):
    parent = start(world, _spec("wait"))
    until(lambda: _started(world))
    parent.signal(signal.SIGTERM)
    code, _, err = parent.end()
    assert code == 75, err
    assert "Preempted: stopped on request" in err
    # The launcher is gone once every pod has ended; the Job goes a moment later, the Service with it.
    until(lambda: cluster.jobs == {} and cluster.api.objects["services"] == {})
    (world / "go").touch()
    assert run_job(_spec("wait")) == {"loss": 1.5}
    assert len(cluster.api.created) == 2


def test_a_failed_job_makes_room_for_its_successor(world, cluster):
    spec = _spec("wait")
    (world / "fakejob.py").write_text("raise SystemExit(1)")
    with pytest.raises(JobFailed):
        run_job(spec)
    assert list(cluster.jobs), "people want to look at it"
    (world / "fakejob.py").write_text(PROGRAM)
    (world / "go").touch()
    assert run_job(spec) == {"loss": 1.5}
    assert len(cluster.api.created) == 2
    assert len(cluster.jobs) == 1


def test_the_time_limit_is_a_preemption(world, cluster, start):
    parent = start(world, _spec("wait", time_limit_minutes=60))
    until(lambda: _started(world))
    cluster.job()["spec"]["activeDeadlineSeconds"] = 1
    code, _, err = parent.end()
    assert code == 75, err
    assert "Preempted: stopped on request" in err
    [condition] = [c for c in cluster.job()["status"]["conditions"] if c["type"] == "Failed"]
    assert condition["reason"] == "DeadlineExceeded"


def test_a_drained_node_makes_the_job_start_again(world, cluster, start):
    parent = start(world, _spec("wait"))
    until(lambda: _started(world))
    with cluster.api.lock:
        cluster.nodes.disrupt(cluster.pods()[1])
    until(lambda: len(cluster.api.created) == 2)
    (world / "go").touch()
    code, out, err = parent.end()
    assert code == 0, err
    assert "its place was taken back; it is submitted again" in err
    assert "1.5" in out
    assert (world / "started-0").read_text() == "xx"


def test_kueue_lets_the_job_start_and_may_take_its_place_back(world, cluster, start):
    cluster.api.groups["kueue.x-k8s.io"] = "v1beta2"
    parent = start(world, _spec("wait", queue="gpus"))
    until(lambda: cluster.jobs)
    first = cluster.job()
    assert first["spec"]["suspend"]
    assert first["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    _workload(cluster, "Pending", "insufficient unused quota for nvidia.com/gpu, 8 more needed")
    until(lambda: "waiting (insufficient unused quota for nvidia.com/gpu" in parent.said())
    assert cluster.nodes.pods(first) == []
    first["spec"]["suspend"] = False
    until(lambda: _started(world))
    first["spec"]["suspend"] = True
    until(lambda: len(cluster.api.created) == 2)
    until(lambda: cluster.jobs and cluster.job()["spec"]["suspend"], "it does not queue again")
    (world / "go").touch()
    cluster.job()["spec"]["suspend"] = False
    code, out, err = parent.end()
    assert code == 0, err
    assert "1.5" in out


def _workload(cluster: Cluster, reason: str, message: str) -> None:
    condition = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
    labels = {"kueue.x-k8s.io/job-uid": cluster.job()["metadata"]["uid"]}
    with cluster.api.lock:
        found = cluster.api.add("workloads", {"metadata": {"name": "job-x", "labels": labels}, "spec": {}})
        found["status"] = {"conditions": [condition]}


def test_a_queue_that_does_not_exist_holds_the_job(world, cluster, start):
    cluster.api.groups["kueue.x-k8s.io"] = "v1beta2"
    parent = start(world, _spec("ok", queue="gpu"))
    until(lambda: cluster.jobs)
    _workload(cluster, "Inadmissible", "LocalQueue gpu doesn't exist")
    code, _, err = parent.end()
    assert code == 2, err
    assert "LocalQueue gpu doesn't exist. Clear the cause" in err
    assert len(cluster.jobs) == 1, "it stays, and starts when the cause is cleared"
    cluster.job()["spec"]["suspend"] = False
    assert run_job(_spec("ok", queue="gpu")) == {"loss": 1.5}
    assert len(cluster.api.created) == 1


def test_a_queue_without_kueue_holds_the_job(world):
    with pytest.raises(JobHeld, match="has no Kueue"):
        run_job(_spec("ok", queue="gpus"))


@pytest.mark.parametrize(
    ("cause", "asked", "told"),
    [
        (
            "no node",
            {"gpus_per_node": 2},
            "Unschedulable: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu",
        ),
        ("no claim", {}, 'persistentvolumeclaim "work" not found'),
        ("no quota", {}, "FailedCreate: pods are forbidden: exceeded quota"),
    ],
)
def test_a_job_that_cannot_start_says_why_and_is_held_in_the_end(
    world, cluster, monkeypatch, cause, asked, told
):
    """The hour that it has is over when its start lies an hour back."""
    cluster.nodes.kubelet.claims -= {"work"} if cause == "no claim" else set()
    cluster.nodes.pod_quota = 0 if cause == "no quota" else 99
    monkeypatch.setattr("pipeline_lib.launch.kubernetes.overdue", _an_hour_later(cluster, told))
    with pytest.raises(JobHeld) as held:
        run_job(_spec("ok", **asked))
    assert told in str(held.value)
    assert "could not start for 60 minutes" in str(held.value)
    assert "kubectl delete job/r1-train" in str(held.value)
    assert len(cluster.jobs) == 1


def _an_hour_later(cluster: Cluster, told: str) -> Callable[..., bool]:
    """`overdue` on a clock that jumps ahead one look after the cluster has said why: what the launcher has read then holds it."""
    from datetime import timedelta

    from pipeline_lib.launch.jobstate import overdue

    ahead = timedelta(0)

    def look(job: Any, minutes: int, now: Any) -> bool:
        nonlocal ahead
        answer = overdue(job, minutes, now + ahead)
        with cluster.api.lock:
            said = json.dumps(cluster.api.objects)
        if told.partition(": ")[2] in said or told in said.replace('\\"', '"'):
            ahead = timedelta(hours=1, seconds=1)
        return answer

    return look


def test_an_image_that_cannot_be_pulled_ends_the_job(world, cluster, monkeypatch, capfd):
    monkeypatch.setattr("pipeline_lib.launch.jobstate.START_PATIENCE", 2.0)
    with pytest.raises(
        DataError, match=r'ImagePullBackOff: Back-off pulling image "r1:2"\. .* mend engine\.kubernetes'
    ):
        run_job(_spec("ok", image="r1:2"))
    assert "waiting (" in capfd.readouterr().err
    until(lambda: cluster.jobs == {}, "it would keep its GPUs for ever")
    assert run_job(_spec("ok")) == {"loss": 1.5}


@pytest.mark.parametrize(
    ("asked", "forbidden", "told"),
    [
        ({"image": ""}, "", r"engine\.kubernetes\.image"),
        ({"volumes": {"work": "/elsewhere"}}, "", r"engine\.kubernetes\.volumes.*no volume holds the worktree"),
        ({"time_limit_minutes": 1, "grace_seconds": 60}, "", r"time_limit_minutes.*longer than grace_seconds"),
        ({"pod": {"volumes": []}}, "", r"engine\.kubernetes\.pod\.volumes"),
        ({"pod": {"nodeSelektor": {}}}, "", r"engine\.kubernetes\.pod\.nodeSelektor.*there are .*nodeSelector"),
        (
            {"pod": {"affinity": {"nodeAfinity": {}}}},
            "",
            r"spec\.template\.spec\.affinity\.nodeAfinity.*not a field of a Job",
        ),
        ({"resources": {"memory": "64 GB"}}, "", "resources.limits: memory: 64 GB"),
        ({"context": "there"}, "", r"engine\.kubernetes\.context = 'there'"),
        ({"namespace": "elsewhere"}, "", 'namespaces "elsewhere" not found'),
        ({}, "create jobs", 'User "me" cannot create resource "jobs"'),
        ({}, "list pods", 'User "me" cannot list resource "pods"'),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_names_the_field_or_the_server_s_reason(
    world, cluster, asked, forbidden, told
):
    cluster.api.forbidden = {forbidden}
    with pytest.raises(ConfigError, match=told):
        run_job(_spec("ok", **asked))


def test_an_unknown_token_is_refused(world, cluster):
    cluster.api.kubeconfig(token="of somebody else")
    with pytest.raises(ConfigError, match="Unauthorized"):
        run_job(_spec("ok"))


def test_a_token_that_is_unknown_for_a_while_is_waited_for(world, cluster, start, monkeypatch):
    """An API server that restarts may not have its keys yet."""
    parent = start(world, _spec("wait"))
    until(lambda: _started(world))
    with monkeypatch.context() as patch:
        patch.setattr("tests.integration.cluster.api.TOKEN", "another account's")
        until(lambda: "does not know this account now: Unauthorized; asking again" in parent.said())
    _ends_well(world, parent)


def test_an_api_server_that_is_away_when_the_stage_starts_is_waited_for(world, cluster, start):
    cluster.api.stop()
    parent = start(world, _spec("wait"))
    until(lambda: "the API server does not answer" in parent.said())
    cluster.api.start()
    _ends_well(world, parent)
    assert len(cluster.api.created) == 1


def test_an_api_server_that_is_away_is_waited_for(world, cluster, start):
    parent = start(world, _spec("wait"))
    until(lambda: _started(world))
    cluster.api.stop()
    until(lambda: "the API server does not answer" in parent.said())
    cluster.api.start()
    _ends_well(world, parent)


def _ends_well(world: Path, parent: Parent) -> None:
    (world / "go").touch()
    code, out, err = parent.end()
    assert code == 0, err
    assert "1.5" in out


def test_patience_ends(world, cluster, monkeypatch, capfd):
    monkeypatch.setattr("pipeline_lib.launch.waiting.PATIENCE_SECONDS", 1.0)
    threading.Thread(target=lambda: (until(lambda: _started(world)), cluster.api.stop())).start()
    with pytest.raises(NotAnswering):
        run_job(_spec("wait"))
    assert "asking again" in capfd.readouterr().err


def test_a_two_pod_grpo_run_is_stopped_and_ends_as_two_local_ranks_do(tmp_path, cluster, start, monkeypatch):
    """DeepSpeed over gloo in two pods; SIGTERM, a checkpoint, a second Job: the same bytes as without all that."""
    spec = grpo_spec(steps=4, kl_coef=0.01, checkpoint_every=100, engine={"world_size": 2, "zero_stage": 2})
    local, remote = slow_world(tmp_path, spec)
    monkeypatch.delenv("R1_MLFLOW_JOURNAL", raising=False)
    section = _asked(remote, grace_seconds=120)
    queued = replace(spec, engine={**spec.engine, "launcher": "kubernetes", "kubernetes": section})
    first = start(remote, queued, "slowjob")
    until(lambda: both_wait(remote) or first.process.poll() is not None)
    first.signal(signal.SIGTERM)
    code, _, err = first.end()
    assert code == Preempted.exit_code, err
    assert "checkpoint written at step 2" in err
    second = start(remote, queued, "slowjob")
    code, out, err = second.end()
    assert code == 0, err
    assert len(cluster.api.created) == 2
    require_same_end(spec, local, remote, out)
