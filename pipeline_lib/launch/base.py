"""What every launcher promises: to submit a job, to find it again, and to tell of it, stop it and show its log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline_lib.errors import EXIT_BAD_INPUT, PipelineError
from pipeline_lib.launch.job import Job

PREEMPTED = "Preempted: "
"""How the last line of a rank or a pod begins that was asked to stop and left in order (exit code 75)."""


class JobFailed(PipelineError):
    """A job crashed; the message holds the end of its log."""


class NotAnswering(JobFailed):
    """A queue or a cluster does not answer, or takes no job now; a job that it has may well go on."""


class JobHeld(PipelineError):
    """A queue holds the job until a person acts: waiting, or trying again, cannot help."""

    exit_code = EXIT_BAD_INPUT


class AlreadyRunning(PipelineError):
    """A second process asked for a job that a living one is already waiting for."""


@dataclass(frozen=True, slots=True)
class Status:
    """Where a job stands."""

    phase: Literal["waiting", "running", "held", "ended"]
    exit_code: int | None = None
    """Of an ended job, as a shell would say it (128 + signal); None where nobody can tell."""
    detail: str = ""
    """The queue's own words, where it has any: why a job waits, is held, or was ended from outside."""


class Submitted(Protocol):
    """A job that was started, by this process or by one before it."""

    poll_seconds: float
    """How long to leave between two questions."""

    @property
    def title(self) -> str:
        """What the launcher calls it: `pid 12`, `Slurm job 7`."""
        ...

    def status(self) -> Status:
        """Where it stands now. NotAnswering where nobody can be asked."""
        ...

    def new_output(self) -> str:
        """What it has written since the last call."""
        ...

    def stop(self) -> None:
        """Ask every rank to write a checkpoint and leave (SIGTERM); returns at once."""
        ...

    def close(self) -> None:
        """Let go of it without touching it."""
        ...


class Launcher(Protocol):
    """One place where jobs run. `waiting.run_to_end` is what makes of it a job that ends."""

    def find(self, job: Job) -> Submitted | None:
        """The living copy of this job, whoever submitted it; None when there is none. NotAnswering where nobody can be asked."""
        ...

    def submit(self, job: Job) -> Submitted:
        """Start the job. Idempotent: where another process, or an earlier call that got no answer, was faster, its copy is returned.

        NotAnswering where nobody can be asked, or where no job is taken now.
        """
        ...
