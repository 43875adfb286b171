"""Jobs on a real Slurm: munged, slurmctld and two slurmd, started for this file alone.

As root the second node is another host to the network: its own namespace, interfaces and address. Else both are on loopback.
Not covered: GPUs, cgroups, a shared file system with caches of its own, accounting (sacct), more than one user.
"""

from __future__ import annotations

import getpass
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from pipeline_lib.errors import ConfigError, DataError, Preempted
from pipeline_lib.launch import run_job
from pipeline_lib.launch.base import JobFailed, JobHeld, NotAnswering
from pipeline_lib.launch.job import Job, describe, prepare_folder
from pipeline_lib.launch.slurm import SlurmJob, SlurmLauncher
from pipeline_lib.orchestration import detached
from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.training.spec import JobSpec
from tests.integration.cluster.hosts import TwoHosts, two_hosts
from tests.integration.cluster.launched import (
    PATIENCE_S,
    ROOT,
    both_wait,
    parent_program,
    require_same_end,
    slow_world,
    training_stage,
    until,
)
from tests.power import cut_power
from tests.seaweed import free_ports
from tests.unit.training.tiny import grpo_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
DAEMONS = ("munged", "slurmctld", "node1", "node2")

CONF = """
ClusterName=r1test
SlurmctldHost=localhost({near})
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobCompType=jobcomp/filetxt
JobCompLoc={root}/completed.txt
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=30
FirstJobId={first_id}
NodeName=node1 NodeHostname=localhost NodeAddr={near} Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=node2 NodeHostname=localhost NodeAddr={far} Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class Cluster:
    """The daemons, which can be killed and started again."""

    root: Path
    hosts: TwoHosts
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start one of DAEMONS."""
        files = [f"--{kind}-file={self.root}/munge.{kind}" for kind in ("pid", "log", "seed")]
        munge = [f"--key-file={self.root}/munge.key", f"--socket={self.root}/munge.socket", *files]
        command = {
            "munged": ["munged", "-F", "--force", *munge],
            "slurmctld": ["slurmctld", "-D"],
            "node1": ["slurmd", "-D", "-N", "node1"],
            "node2": [*self.hosts.inside, "slurmd", "-D", "-N", "node2"],
        }[name]
        with (self.root / "daemons.out").open("ab") as out:
            self.running[name] = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def kill(self, name: str) -> None:
        """kill -9 of one of DAEMONS; the steps of a node go on."""
        self.running[name].kill()
        self.running[name].wait(timeout=60)

    def stop(self) -> None:
        """Stop all of them, the last one first, and what outlived a test that failed."""
        for pid in self.processes_of("node1") | self.processes_of("node2"):
            os.kill(pid, signal.SIGKILL)
        for daemon in reversed(self.running.values()):
            daemon.terminate()
        for daemon in self.running.values():
            daemon.wait(timeout=60)

    def processes_of(self, node: str) -> set[int]:
        """The ranks of a node, and the slurmstepd above them."""
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.root}/slurm.conf".encode()}
        ranks = {pid for pid in _pids() if marks <= set(_read(pid, "environ").split(b"\0"))}
        above = {
            int(_read(pid, "stat").rpartition(b")")[2].split()[1]) for pid in ranks if _read(pid, "stat")
        }
        return ranks | {pid for pid in above if _read(pid, "comm").startswith(b"slurmstepd")}

    def idle(self) -> int:
        """How many nodes wait for work."""
        try:
            return self.say("sinfo", "--noheader", "--Node", "--format=%T").split().count("idle")
        except subprocess.CalledProcessError:
            return 0

    def say(self, *command: str) -> str:
        """What a Slurm command prints."""
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def jobs(self, directory: Path) -> dict[str, str]:
        """Id -> state of every job ever submitted from `directory`."""
        rows = self.say("squeue", "--noheader", "--states=all", "--Format=JobID:20,State:20,WorkDir:1000")
        return {
            row.split()[0]: row.split()[1] for row in rows.splitlines() if row.split()[2] == str(directory)
        }


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as both:
        yield both


def _require_programs() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        told = f"{', '.join(missing)} not installed; `make slurm` installs Debian's packages"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, hosts: TwoHosts) -> Iterator[Cluster]:
    """Slurm on two hosts; every daemon is stopped by its own process id at the end."""
    _require_programs()
    # munged refuses a socket path of more than 108 characters.
    root = tmp_path_factory.mktemp("slurm")
    root.chmod(0o755)
    (root / "state").mkdir()
    key = root / "munge.key"
    key.write_bytes(random.randbytes(128))
    key.chmod(0o600)
    conf = root / "slurm.conf"
    conf.write_text(
        CONF.format(
            root=root,
            near=hosts.near,
            far=hosts.far,
            user=getpass.getuser(),
            ports=free_ports(3),
            first_id=random.randrange(1, 19000),
        )
    )
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(conf)
    found = Cluster(root, hosts)
    try:
        for name in DAEMONS:
            found.start(name)
            if name == "munged":
                until((root / "munge.socket").exists)
        until(lambda: found.idle() == 2, why=lambda: (root / "daemons.out").read_text()[-3000:])
        yield found
        # A step outlives its slurmd: what a test that failed left in the queue ends here.
        found.say("scancel", "--me")
        until(lambda: not found.say("squeue", "--noheader", "--me"))
    finally:
        found.stop()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int, file: str) -> bytes:
    """A file of /proc; empty when the process is gone."""
    return _bytes(Path(f"/proc/{pid}/{file}"))


def _bytes(file: Path) -> bytes:
    """What it holds; empty where it is not, as the controller's state while the new one takes its place."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
def stop(*_):
    print("Preempted: stopped on request", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGTERM, stop)
folder = Path(sys.argv[-1])
behaviour = json.loads((folder / "spec.json").read_text())["section"]["behaviour"]
print(f"rank {rank} of {size} on {os.environ['SLURMD_NODENAME']} at {os.environ['MASTER_ADDR']}", flush=True)
with open(f"started-{rank}", "a") as file:
    file.write("x")
if behaviour == "crash" and rank == "1":
    raise RuntimeError("boom at step 3")
if behaviour == "bad":
    print("DataError: the file is empty; fill it", flush=True)
    raise SystemExit(2)
while behaviour != "ok" and not Path("go").exists():
    time.sleep(0.05)
if rank == "0":
    Path("model").write_text("weights")
    (folder / "result.json").write_text('{"loss": 1.5}')
"""


@pytest.fixture
def world(tmp_path, monkeypatch, cluster) -> Path:
    """A worktree whose training program is a small stand-in, for what is about queues and not about training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fakejob.py").write_text(PROGRAM)
    (tmp_path / "input").write_text("data")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("pipeline_lib.launch.job.MODULE", "fakejob")
    monkeypatch.setattr("pipeline_lib.launch.slurm.SlurmJob.poll_seconds", 0.5)
    return tmp_path


def _spec(behaviour: str, **slurm) -> JobSpec:
    return JobSpec(
        kind="sft",
        stage="train_cold_start_sft",
        seed=1,
        section={"behaviour": behaviour},
        engine={"launcher": "slurm", "world_size": 2, "threads": 1, "slurm": _asked(**slurm)},
        inputs={"model": "input"},
        outputs={"model": "model"},
    )


def _asked(**fields) -> dict[str, object]:
    asked = {
        "partition": "main",
        "account": "",
        "gpus_per_node": 0,
        "time_limit_minutes": 5,
        "grace_seconds": 30,
    }
    return {**asked, "options": [], **fields}


PARENTS: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_parent_outlives_its_test() -> Iterator[None]:
    yield
    while PARENTS:
        with PARENTS.pop() as parent:
            parent.kill()


def _parent(
    world: Path, spec: JobSpec, module: str = "fakejob", own_session: bool = False
) -> subprocess.Popen[str]:
    """The launcher in a process of its own, to be killed or signalled. A stage has a session of its own."""
    (world / "spec.json").write_text(spec.to_json())
    parent = subprocess.Popen(
        [sys.executable, "-c", parent_program("slurm", "SlurmJob", module)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=world,
        start_new_session=own_session,
    )
    PARENTS.append(parent)
    return parent


def test_a_job_runs_on_two_nodes_and_leaves_nothing_but_its_outputs(world, cluster, capfd):
    assert run_job(_spec("ok")) == {"loss": 1.5}
    assert (world / "model").read_text() == "weights"
    assert list((world / "checkpoints").iterdir()) == []
    said = capfd.readouterr().err
    assert "submitted as Slurm job" in said
    assert f"rank 0 of 2 on node1 at {cluster.hosts.near}" in said, "the log is not passed on"
    assert f"rank 1 of 2 on node2 at {cluster.hosts.near}" in said


def test_one_rank_that_crashes_ends_the_job_and_shows_its_log(world):
    with pytest.raises(JobFailed, match="boom at step 3"):
        run_job(_spec("crash"))


def test_bad_input_is_one_line(world):
    with pytest.raises(DataError, match=r"^the file is empty; fill it$"):
        run_job(_spec("bad"))


def test_what_sbatch_refuses_names_the_section(world):
    with pytest.raises(ConfigError, match=r"engine\.slurm.*partition"):
        run_job(_spec("ok", partition="nowhere"))


def test_a_launcher_that_was_killed_finds_its_job_again(world, cluster):
    parent = _parent(world, _spec("wait"))
    until((world / "started-1").exists)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    # More time for the same job is the same job.
    second = _parent(world, _spec("wait", time_limit_minutes=9))
    assert second.stderr is not None
    assert "already running as Slurm job" in second.stderr.readline()
    (world / "go").touch()
    out, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, err
    assert "1.5" in out
    assert len(cluster.jobs(world)) == 1, "a second job was submitted"
    assert (world / "started-1").read_text() == "x"


@pytest.fixture
def slow_sbatch(world, monkeypatch) -> Path:
    """An sbatch that reaches the controller late; the file is there once it was started."""
    slow, started = world / "bin" / "sbatch", world / "submitting"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\ntouch {started}\nsleep 3\nexec {shutil.which("sbatch")} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    return started


def test_a_launcher_killed_inside_sbatch_does_not_submit_twice(world, cluster, slow_sbatch):
    """sbatch outlives its parent; the next launcher waits for it."""
    (world / "go").touch()
    parent = _parent(world, _spec("wait"))
    until(slow_sbatch.exists)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert run_job(_spec("wait")) == {"loss": 1.5}
    assert len(cluster.jobs(world)) == 1


def test_a_stage_stopped_inside_sbatch_leaves_no_job(world, cluster, slow_sbatch):
    """SIGTERM to the whole session, as `processes.stop` sends it: sbatch ends, and its job is stopped."""
    parent = _parent(world, _spec("wait", options=["--begin=now+1hour"]), own_session=True)
    until(slow_sbatch.exists)
    os.killpg(parent.pid, signal.SIGTERM)
    _, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 75, err
    assert list(cluster.jobs(world).values()) == ["CANCELLED"], err


def test_a_queue_that_is_full_and_an_sbatch_that_is_killed_are_waited_for(world, cluster):
    """sbatch itself tries again for two minutes; here it is killed in its first pause. The controller counts ended jobs, too."""
    held = cluster.say("sbatch", "--parsable", "--hold", "--chdir=/", "--wrap=true").strip()
    conf = cluster.root / "slurm.conf"
    before = conf.read_text()
    conf.write_text(f"{before}MaxJobCount=1\n")
    try:
        _restart_controller(cluster)
        (world / "go").touch()
        parent = _parent(world, _spec("wait"))
        until(lambda: _children(parent.pid, "sbatch"))
        time.sleep(2.0)
        for pid in _children(parent.pid, "sbatch"):
            os.kill(pid, signal.SIGKILL)
        _hear(parent, "Slurm temporarily unable to accept job")
        assert parent.poll() is None
    finally:
        conf.write_text(before)
        _restart_controller(cluster)
    out, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 0, err
    assert "1.5" in out
    assert list(cluster.jobs(world).values()) == ["COMPLETED"]
    cluster.say("scancel", held)


def _children(parent: int, name: str) -> list[int]:
    return [child.pid for child in psutil.Process(parent).children() if child.name() == name]


def _restart_controller(cluster: Cluster) -> None:
    """In order: it writes its jobs to the disk."""
    controller = cluster.running["slurmctld"]
    controller.terminate()
    controller.wait(timeout=60)
    cluster.start("slurmctld")
    until(lambda: _answers(cluster))


def test_sigterm_to_the_launcher_is_a_checkpoint_and_a_retry_is_a_new_job(world, cluster):
    parent = _parent(world, _spec("wait"))
    until(lambda: all((world / f"started-{rank}").exists() for rank in (0, 1)))
    os.kill(parent.pid, signal.SIGTERM)
    _, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 75, err
    assert "Preempted: stopped on request" in err
    (world / "go").touch()
    assert run_job(_spec("wait")) == {"loss": 1.5}
    assert len(cluster.jobs(world)) == 2


def test_a_held_job_is_told_and_left_in_the_queue(world, cluster):
    spec = _spec("ok", options=["--hold"])
    with pytest.raises(JobHeld, match=r"JobHeldUser.*scontrol release \d+") as told:
        run_job(spec)
    assert told.value.exit_code == 2, "Airflow would try again"
    with pytest.raises(JobHeld):
        run_job(spec)
    [(job, state)] = cluster.jobs(world).items()
    assert state == "PENDING"
    cluster.say("scontrol", "release", job)
    assert run_job(spec) == {"loss": 1.5}
    assert list(cluster.jobs(world)) == [job]


def test_a_requeued_job_is_the_same_job(world, cluster):
    parent = _parent(world, _spec("wait"))
    until(lambda: all((world / f"started-{rank}").exists() for rank in (0, 1)))
    [job] = cluster.jobs(world)
    cluster.say("scontrol", "requeue", job)
    until(lambda: (world / "started-0").read_text() == "xx")
    (world / "go").touch()
    out, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 0, err
    assert "1.5" in out
    assert list(cluster.jobs(world)) == [job]


def test_a_cancelled_job_is_an_error_that_says_so(world, cluster):
    parent = _parent(world, _spec("wait", options=["--begin=now+1hour"]))
    until(lambda: cluster.jobs(world))
    [job] = cluster.jobs(world)
    cluster.say("scancel", job)
    _, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 75, err
    assert f"Slurm job {job} was stopped: it was cancelled" in err


def _hear(parent: subprocess.Popen[str], words: str) -> None:
    """Wait until the launcher says it; a launcher that is silent for too long is killed, which ends what it says."""
    assert parent.stderr is not None
    patience = threading.Timer(PATIENCE_S, parent.kill)
    patience.start()
    try:
        said = []
        for line in parent.stderr:
            said.append(line)
            if words in line:
                return
        raise AssertionError(f"{words!r} was not said: {said}")
    finally:
        patience.cancel()


def test_a_controller_and_a_nodes_daemon_killed_under_a_running_job_are_waited_for(world, cluster):
    """kill -9 of slurmctld and of one slurmd: the ranks go on, the launcher asks again, and one job is all there ever was."""
    parent = _parent(world, _spec("wait"))
    until(lambda: all((world / f"started-{rank}").exists() for rank in (0, 1)))
    [job] = cluster.jobs(world)
    # The controller writes jobs to its disk some seconds late; what it has not written is nobody's job after a kill.
    cluster.say("scontrol", "update", f"JobId={job}", "Comment=is-on-the-disk")
    until(lambda: b"is-on-the-disk" in _bytes(cluster.root / "state" / "job_state"))
    for daemon in ("slurmctld", "node2"):
        cluster.kill(daemon)
    try:
        _hear(parent, f"Slurm job {job}: Slurm does not answer: ")
        assert parent.poll() is None
    finally:
        for daemon in ("slurmctld", "node2"):
            cluster.start(daemon)
    until(lambda: _answers(cluster))
    assert cluster.jobs(world) == {job: "RUNNING"}
    (world / "go").touch()
    out, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 0, err
    assert "1.5" in out
    until(lambda: cluster.idle() == 2)
    assert cluster.jobs(world) == {job: "COMPLETED"}
    assert [(world / f"started-{rank}").read_text() for rank in (0, 1)] == ["x", "x"]


def test_a_munged_that_is_away_under_a_running_job_is_waited_for(world, cluster):
    """Slurm's commands sign with it: without it nobody can ask."""
    parent = _parent(world, _spec("wait"))
    until(lambda: all((world / f"started-{rank}").exists() for rank in (0, 1)))
    [job] = cluster.jobs(world)
    cluster.kill("munged")
    try:
        _hear(parent, f"Slurm job {job}: Slurm does not answer: ")
        assert parent.poll() is None
    finally:
        cluster.start("munged")
    until(lambda: _answers(cluster))
    (world / "go").touch()
    out, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 0, err
    assert "1.5" in out
    assert cluster.jobs(world) == {job: "COMPLETED"}


def test_whatever_a_dying_controller_answers_may_be_tried_again(world, cluster):
    """kill -9 of slurmctld under eight submissions at a time, until it cut one off: each ends as one job in the queue."""
    jobs: list[Job] = []
    unheard: list[str] = []

    def submit(job: Job) -> None:
        while True:
            try:
                SlurmLauncher().submit(job)
                return
            except NotAnswering as error:
                unheard.append(str(error))

    with ThreadPoolExecutor(8) as pool:
        while not unheard:
            assert len(jobs) < 160, "no answer was ever cut off"
            new = [_job(f"number {len(jobs) + more}", world, options=["--hold"]) for more in range(8)]
            jobs += new
            submissions = [pool.submit(submit, job) for job in new]
            time.sleep(random.uniform(0.0, 0.1))
            cluster.kill("slurmctld")
            cluster.start("slurmctld")
            for submission in submissions:
                submission.result(timeout=PATIENCE_S)
        # What the controller had not written to its disk is lost, accepted or not: a retry of the stage submits it again.
        list(pool.map(submit, jobs))
    print(f"{len(jobs)} jobs, {len(unheard)} answers were cut off: {set(unheard)}")
    assert NotAnswering.exit_code == 1, "Airflow would not try again"
    assert list(cluster.jobs(world).values()) == ["PENDING"] * len(jobs)
    cluster.say("scancel", "--me")


def test_a_job_that_slurm_has_forgotten_can_be_stopped(world, cluster):
    """It ended MinJobAge ago: nothing to do, and what waits for it learns so from the queue."""
    SlurmJob(_job("forgotten", world), "19999").stop()


def _job(behaviour: str, world: Path, **slurm) -> Job:
    spec = _spec(behaviour, **slurm)
    return describe(spec, world, prepare_folder(spec, world))


def _answers(cluster: Cluster) -> bool:
    return subprocess.run(["scontrol", "ping"], capture_output=True, timeout=60).returncode == 0


@pytest.fixture
def short_patience(cluster) -> Iterator[None]:
    """A node that does not answer for 5 s is lost; Slurm's own default is 300."""
    conf = cluster.root / "slurm.conf"
    before = conf.read_text()
    conf.write_text(before + "SlurmdTimeout=5\n")
    cluster.say("scontrol", "reconfigure")
    yield
    conf.write_text(before)
    cluster.say("scontrol", "reconfigure")
    until(lambda: cluster.idle() == 2)


def _lose_node2(world: Path, cluster: Cluster) -> None:
    """Kill the second node: its daemon, its ranks and what watches over them."""
    until(lambda: all((world / f"started-{rank}").exists() for rank in (0, 1)))
    cluster.kill("node2")
    lost = cluster.processes_of("node2")
    assert len(lost) >= 2, "no rank and no slurmstepd"
    for pid in lost:
        os.kill(pid, signal.SIGKILL)


def test_a_job_whose_node_is_lost_is_queued_again_by_slurm_and_stays_the_same_job(
    world, cluster, short_patience
):
    parent = _parent(world, _spec("wait"))
    _lose_node2(world, cluster)
    try:
        until(lambda: list(cluster.jobs(world).values()) == ["PENDING"])
        assert parent.poll() is None
    finally:
        cluster.start("node2")
    (world / "go").touch()
    out, err = parent.communicate(timeout=PATIENCE_S)
    assert parent.returncode == 0, err
    assert "1.5" in out
    assert len(cluster.jobs(world)) == 1
    assert [(world / f"started-{rank}").read_text() for rank in (0, 1)] == ["xx", "xx"]


def test_a_job_whose_node_is_lost_and_that_slurm_may_not_queue_again_ends_with_75_for_a_retry(
    world, cluster, short_patience
):
    parent = _parent(world, _spec("wait", options=["--no-requeue"]))
    _lose_node2(world, cluster)
    try:
        _, err = parent.communicate(timeout=PATIENCE_S)
    finally:
        cluster.start("node2")
    assert list(cluster.jobs(world).values()) == ["NODE_FAIL"]
    assert parent.returncode == Preempted.exit_code, err
    assert "DUE TO NODE FAILURE" in err
    assert re.search(r"(a node failed|is NODE_FAIL) \(stopped on request\)$", err.strip()), err
    (world / "go").touch()
    assert run_job(_spec("wait", options=["--no-requeue"])) == {"loss": 1.5}
    assert len(cluster.jobs(world)) == 2


def test_where_slurm_is_not_installed_ci_fails_and_a_person_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"slurmctld.*not installed"):
        _require_programs()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"slurmctld.*not installed"):
        _require_programs()
    assert "\nexport CI=1\n" in (ROOT / ".ci" / "run").read_text()


def test_a_two_node_grpo_run_meets_its_time_limit_and_ends_as_two_local_ranks_do(
    tmp_path, cluster, monkeypatch
):
    """DeepSpeed over gloo under sbatch; the limit's SIGTERM, a checkpoint, a second job: the same bytes as without all that."""
    spec = grpo_spec(steps=4, kl_coef=0.01, checkpoint_every=100, engine={"world_size": 2, "zero_stage": 2})
    local, remote = slow_world(tmp_path, spec)
    monkeypatch.setenv("PYTHONPATH", f"{remote}:{ROOT}")
    monkeypatch.delenv("R1_MLFLOW_JOURNAL", raising=False)
    queued = replace(
        spec,
        engine={
            **spec.engine,
            "launcher": "slurm",
            "slurm": _asked(time_limit_minutes=60, grace_seconds=120),
        },
    )
    first = _parent(remote, queued, "slowjob")
    until(lambda: both_wait(remote) or first.poll() is not None)
    [job] = cluster.jobs(remote)
    ran = re.search(r"RunTime=(\d+):(\d+):(\d+)", cluster.say("scontrol", "show", "job", job))
    assert ran is not None
    minutes = int(ran[1]) * 60 + int(ran[2]) + 2
    cluster.say("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    _, err = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == Preempted.exit_code, err
    assert "checkpoint written at step 2" in err
    second = _parent(remote, queued, "slowjob")
    out, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 0, err
    assert len(cluster.jobs(remote)) == 2
    require_same_end(spec, local, remote, out)


@pytest.mark.parametrize("goes_on", [True, False], ids=["it goes on", "it ends before the retry"])
def test_everything_above_a_queued_job_dies_at_once_and_a_retry_ends_with_the_same_bytes(
    tmp_path, cluster, monkeypatch, goes_on
):
    """The machine that submits goes down: supervisor, watchdog, dvc and launcher.

    A job that goes on is found again, and is the only one. What one wrote that ended meanwhile is cleared away by dvc, and
    made again from its last checkpoint.
    """
    spec = grpo_spec(steps=4, kl_coef=0.01, checkpoint_every=2, engine={"world_size": 2, "zero_stage": 2})
    local, _ = slow_world(tmp_path, spec)
    queued = {**spec.engine, "launcher": "slurm", "slurm": _asked(time_limit_minutes=60)}
    poll_often = "from pipeline_lib.launch.slurm import SlurmJob\nSlurmJob.poll_seconds = 0.2\n"
    hold = tmp_path / "hold"
    hold.touch()
    root = training_stage(tmp_path / "root", replace(spec, engine=queued), hold, step=2, first=poll_often)
    monkeypatch.setenv("PYTHONPATH", f"{root}:{ROOT}")
    monkeypatch.delenv("R1_MLFLOW_JOURNAL", raising=False)

    detached.start(root, "train_r1_zero", {}, print)
    until(
        lambda: len(list(root.glob("held-*"))) == 2,
        why=lambda: detached.log_path(root, "train_r1_zero").read_text()[-3000:],
    )
    commands = "\n".join(cut_power(lambda process: _is_above_the_queue(process, root)))
    for victim in (
        "orchestration.supervise",
        "orchestration/processes.py",
        "orchestration.dvc_program",
        "fit.py",
    ):
        assert victim in commands, victim

    if not goes_on:
        hold.unlink()
        until(lambda: list(cluster.jobs(root).values()) == ["COMPLETED"])
    second = detached.Follower(detached.start(root, "train_r1_zero", {}, print))
    said: list[str] = []
    outcome = None
    while outcome is None:
        lines, outcome = second.poll()
        said += lines
        if any("already running as Slurm job" in line for line in lines):
            hold.unlink()
        time.sleep(0.2)
    assert outcome.result("train_r1_zero").how is How.COMPUTED, said
    assert not hold.exists(), said
    assert len(cluster.jobs(root)) == (1 if goes_on else 2)
    for path in ("models/r1_zero/model.safetensors", "plot.csv", "rollouts.parquet"):
        assert (root / path).read_bytes() == (local / path).read_bytes(), path


def _is_above_the_queue(process: psutil.Process, root: Path) -> bool:
    """Whether it works for the stage and is not a rank: Slurm's nodes are this machine too."""
    mine = Path(process.cwd()) == root or str(root) in " ".join(process.cmdline())
    return mine and "SLURM_JOB_ID" not in process.environ()
