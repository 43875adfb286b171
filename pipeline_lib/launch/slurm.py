"""Jobs on a Slurm cluster, through its own commands: sbatch, squeue, scancel.

A job's name carries its stage and content key, and Slurm remembers the directory it was submitted from: together they
find it again from any process, whatever happened to the one that submitted it. The queue is the only record of a
running job: there is no second one that could disagree. `docs/decisions/0010-launchers.md` says why.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.errors import EXIT_PREEMPTED, ConfigError
from pipeline_lib.launch.base import NotAnswering, Status
from pipeline_lib.launch.job import LOG, Job, LogReader
from pipeline_lib.launch.sbatch import render
from pipeline_lib.orchestration.processes import STAGE_MARK

SCRIPT = "job.sbatch"
SUBMIT_LOCK = "submit.lock"
POLL_SECONDS = 2.0

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
}  # fmt: skip
INTERRUPTED = {
    "BOOT_FAIL": "a node did not come up",
    "CANCELLED": "it was cancelled",
    "NODE_FAIL": "a node failed",
    "PREEMPTED": "another job took its nodes",
    "TIMEOUT": "its time limit came before a checkpoint was written; raise engine.slurm.grace_seconds",
}
"""Ends that say nothing about the job itself: started again it goes on from its last checkpoint."""
HELD_STATES = {"REQUEUE_HOLD", "SPECIAL_EXIT"}
NEVER = (
    "JobHeld", "held", "BadConstraints", "DependencyNeverSatisfied", "PartitionTimeLimit", "PartitionNodeLimit",
    "InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed", "QOSMaxWallDurationPerJobLimit",
    "AssocMaxWallDurationPerJobLimit",
)  # fmt: skip
"""Parts of the reasons for which a pending job stays pending until a person acts."""
UNREACHABLE = (
    "Unable to contact slurm controller", "Socket timed out", "Zero Bytes were transmitted", "missing socket",
    "Message send failure", "Message receive failure", "Communication connection failure",
    "Communication shutdown failure", "Header lengths are longer", "standby mode", "Munge encode failed",
    "Protocol authentication error",
    *map(os.strerror, (errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH,
                       errno.ENOTCONN, errno.EPIPE, errno.ETIMEDOUT)),
)  # fmt: skip
"""How sbatch says that nobody heard it, or that it heard no answer: Slurm's communication errors and the system's."""
FULL = (
    "Slurm temporarily unable to accept job", "Slurm job queue full", "Job creation temporarily disabled",
    "Unable to create job record, try again", os.strerror(errno.EAGAIN), "SubmitJob",
)  # fmt: skip
"""How it says that no job is taken until others have ended. `SubmitJob`: the limits of a user, an account or a QOS on
submitted jobs (QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit, MaxSubmitJobsPerAccount …)."""
NO_LONGER_THERE = ("Invalid job id specified", "already completing or completed")

COLUMNS = {"JobID": 20, "State": 24, "exit_code": 12, "Reason": 64, "Name": 320, "WorkDir": 4096}


@dataclass(frozen=True, slots=True)
class Row:
    """One job as squeue shows it."""

    id: str
    state: str
    wait_status: int
    """As waitpid(2) gives it."""
    reason: str
    name: str
    directory: str


class SlurmLauncher:
    """Submits jobs to the cluster of this machine's Slurm configuration (`SLURM_CONF`, or the installed one)."""

    def find(self, job: Job) -> SlurmJob | None:
        """The job of this name and directory that is pending or running."""
        with _submitting(job.folder):
            return _find(job)

    def submit(self, job: Job) -> SlurmJob:
        """Submit, unless the queue has the job already."""
        with _submitting(job.folder) as lock:
            return _find(job) or SlurmJob(job, _sbatch(job, lock))


class SlurmJob:
    """A job that sbatch accepted."""

    poll_seconds = POLL_SECONDS

    def __init__(self, job: Job, id: str) -> None:
        self._job, self.id = job, id
        self.new_output = LogReader(job.folder / LOG)

    @property
    def title(self) -> str:
        """Its Slurm id."""
        return f"Slurm job {self.id}"

    def status(self) -> Status:
        """Ask the queue."""
        rows = [row for row in _queue(self._job) if row.id == self.id]
        if not rows:  # it ended more than MinJobAge ago, while nobody could ask
            return Status("ended", None, f"{self.title} is no longer in the queue")
        return status_of(rows[0])

    def stop(self) -> None:
        """SIGTERM to the ranks; a job that has not started leaves the queue."""
        # Each option excludes the other case, so nothing happens between looking and acting.
        for which in (["--state=PENDING"], ["--state=RUNNING", "--signal=TERM"]):
            done = _run("scancel", *which, self.id)
            if done.returncode and not any(words in done.stderr for words in NO_LONGER_THERE):
                raise _no_answer(done)

    def close(self) -> None:
        """Nothing is held."""


def status_of(row: Row) -> Status:
    """What a row of the queue means for somebody who waits."""
    title = f"Slurm job {row.id}"
    if row.state in ENDED:
        killed, code = row.wait_status & 0x7F, row.wait_status >> 8
        if row.state in INTERRUPTED and code != EXIT_PREEMPTED:
            return Status("ended", EXIT_PREEMPTED, f"{title} was stopped: {INTERRUPTED[row.state]}")
        detail = "" if row.state in ("COMPLETED", "FAILED") else f"{title} is {row.state}"
        return Status("ended", 128 + killed if killed else code or int(row.state != "COMPLETED"), detail)
    if row.state in HELD_STATES or (row.state == "PENDING" and any(word in row.reason for word in NEVER)):
        return Status(
            "held",
            None,
            f"{title} will not start: {row.state}, {row.reason}. Clear the cause and `scontrol release {row.id}`, or "
            f"`scancel {row.id}` and change engine.slurm; then start the stage again",
        )
    return Status("waiting", None, row.reason) if row.state == "PENDING" else Status("running")


def _find(job: Job) -> SlurmJob | None:
    """Of several living copies (two people may submit by hand) the oldest."""
    living = [row.id for row in _queue(job) if row.state not in ENDED]
    return SlurmJob(job, min(living, key=int)) if living else None


def _queue(job: Job) -> list[Row]:
    """This user's jobs of that label and directory that Slurm still knows, ended ones included."""
    widths = ",".join(f"{name}:{width}" for name, width in COLUMNS.items())
    done = _run("squeue", "--noheader", "--me", "--states=all", f"--name={job.label}", f"--Format={widths}")
    if done.returncode:
        raise _no_answer(done)
    rows = []
    for line in done.stdout.splitlines():
        cells, at = [], 0
        for width in COLUMNS.values():
            cells.append(line[at : at + width].strip())
            at += width
        rows.append(Row(cells[0], cells[1], int(cells[2]), *cells[3:]))
    return [row for row in rows if row.directory == str(job.root)]


def _sbatch(job: Job, lock: int) -> str:
    """Submit; the job's id. sbatch inherits the lock: if this process dies now, the next one waits for its answer.

    It has a session of its own: whoever stops the stage's does not cut it off from an answer on its way.
    """
    script = job.folder / SCRIPT
    script.write_text(render(job), encoding="utf-8")
    # Slurm's own variables of an outer job and the mark by which a stage's processes are swept are not the job's.
    env = {k: v for k, v in os.environ.items() if k != STAGE_MARK and not k.startswith(("SBATCH_", "SLURM_"))}
    if "SLURM_CONF" in os.environ:
        env["SLURM_CONF"] = os.environ["SLURM_CONF"]
    done = _run("sbatch", "--parsable", str(script), env=env, keep=lock)
    if done.returncode:
        # Killed, or cut off from the answer: the job may be in the queue all the same.
        if done.returncode < 0 or any(words in done.stderr for words in UNREACHABLE):
            raise _no_answer(done)
        if any(words in done.stderr for words in FULL):
            raise NotAnswering(f"Slurm takes no more jobs now: {_said(done)}")
        raise ConfigError("engine.slurm", "sbatch", _said(done))
    job_id = done.stdout.strip().partition(";")[0]
    print(f"{job.name}: submitted as Slurm job {job_id}", file=sys.stderr, flush=True)
    return job_id


@contextmanager
def _submitting(folder: Path) -> Iterator[int]:
    """Inside, nobody submits the job of `folder`: not even a sbatch that outlived its parent."""
    with (folder / SUBMIT_LOCK).open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _run(
    *command: str, env: dict[str, str] | None = None, keep: int | None = None
) -> subprocess.CompletedProcess[str]:
    """A Slurm command that ended. ConfigError where there is none. One with a file to `keep` gets a session of its own."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=env,
            pass_fds=() if keep is None else (keep,),
            start_new_session=keep is not None,
        )
    except FileNotFoundError:
        raise ConfigError(
            "engine.launcher", "slurm", f"{command[0]} is not on the PATH; run where Slurm is installed"
        ) from None


def _no_answer(done: subprocess.CompletedProcess[str]) -> NotAnswering:
    """Commands that ask or stop carry nothing of a parameter's: whatever they fail with is Slurm's own, and may pass."""
    return NotAnswering(f"Slurm does not answer: {_said(done)}")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip() or done.stdout.strip() or f"{done.args[0]} ended with {done.returncode}"


LAUNCHER = SlurmLauncher()
