"""Finding, submitting and stopping while a queue is away, with real signals to this process and a launcher of the test's own."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline_lib.errors import Preempted
from pipeline_lib.launch import waiting
from pipeline_lib.launch.base import NotAnswering, Status
from pipeline_lib.launch.job import Job
from pipeline_lib.training.spec import JobSpec

RESULT = '{"loss": 1.5}'


@dataclass
class Running:
    """A job that ends by itself, or with 75 once it was told to stop."""

    folder: Path
    leaves_outputs: bool = True
    stops: int = 0
    poll_seconds: float = 0.01
    title: str = "job 7"

    def status(self) -> Status:
        if self.stops:
            return Status("ended", 75)
        (self.folder / "result.json").write_text(RESULT)
        if self.leaves_outputs:
            Path("model").write_text("weights")
        return Status("ended", 0)

    def new_output(self) -> str:
        return ""

    def stop(self) -> None:
        self.stops += 1

    def close(self) -> None:
        pass


@dataclass
class Queue:
    """A launcher. `finds` and `submits` are what the next calls do before they answer."""

    finds: list[str] = field(default_factory=list)
    submits: list[str] = field(default_factory=list)
    job: Running | None = None
    submissions: int = 0

    def find(self, job: Job) -> Running | None:
        self._do(self.finds)
        return self.job

    def submit(self, job: Job) -> Running:
        self.submissions += 1
        accepted = Running(job.folder)
        self._do(self.submits, accepted)
        self.job = accepted
        return accepted

    def _do(self, script: list[str], accepted: Running | None = None) -> None:
        what = script.pop(0) if script else ""
        if "accepted" in what:
            self.job = accepted
        if "stop" in what:
            os.kill(os.getpid(), signal.SIGTERM)
        if "away" in what:
            raise NotAnswering("nobody answers")


@pytest.fixture
def spec(tmp_path, monkeypatch) -> JobSpec:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(waiting, "ASK_AGAIN_SECONDS", 0.05)
    (tmp_path / "input").write_text("data")
    return JobSpec(
        kind="sft",
        stage="train_cold_start_sft",
        seed=1,
        section={},
        engine={"launcher": "queue", "world_size": 1, "threads": 1},
        inputs={"model": "input"},
        outputs={"model": "model"},
    )


@pytest.fixture(autouse=True)
def handler():
    """A signal that the launcher does not take fails the test, and does not end pytest."""

    def unexpected(*_: object) -> None:
        raise AssertionError("SIGTERM met nobody who expects it")

    before = signal.signal(signal.SIGTERM, unexpected)
    yield unexpected
    assert signal.getsignal(signal.SIGTERM) is unexpected, "the handler was not put back"
    signal.signal(signal.SIGTERM, before)


def test_a_queue_that_is_away_before_the_job_is_submitted_is_asked_again(spec, capfd):
    queue = Queue(finds=["away", "away"], submits=["away", "away"])
    assert waiting.run_to_end(queue, spec) == {"loss": 1.5}
    assert queue.submissions == 3
    assert capfd.readouterr().err.count(f"{spec.name}: nobody answers; asking again") == 4


@pytest.mark.parametrize("call", ["finds", "submits"])
def test_patience_ends_before_the_job_is_submitted_too(spec, monkeypatch, call):
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(NotAnswering):
        waiting.run_to_end(Queue(**{call: ["away"] * 1000}), spec)


def test_a_stop_during_a_submission_stops_the_job_right_after_it(spec):
    queue = Queue(submits=["stop"])
    with pytest.raises(Preempted):
        waiting.run_to_end(queue, spec)
    assert queue.job is not None
    assert queue.job.stops == 1


def test_a_stop_while_a_job_is_looked_for_stops_the_one_that_is_found(spec):
    queue = Queue(finds=["stop"], job=Running(Path()))
    with pytest.raises(Preempted):
        waiting.run_to_end(queue, spec)
    assert queue.job.stops == 1
    assert queue.submissions == 0


@pytest.mark.parametrize(
    ("finds", "submits", "submissions"),
    [(["stop"], [], 0), (["stop away"], [], 0), ([], ["stop away"], 1)],
    ids=["while it looks", "while it looks and nobody answers", "while nobody takes the job"],
)
def test_a_stop_before_the_job_is_submitted_is_the_end(spec, finds, submits, submissions):
    queue = Queue(finds, submits)
    with pytest.raises(Preempted, match="stopped before the job was submitted") as told:
        waiting.run_to_end(queue, spec)
    assert told.value.exit_code == 75
    assert queue.submissions == submissions


def test_a_stop_finds_the_job_whose_submission_got_no_answer(spec):
    queue = Queue(submits=["accepted stop away"])
    with pytest.raises(Preempted):
        waiting.run_to_end(queue, spec)
    assert queue.job is not None
    assert queue.job.stops == 1


def test_a_stop_does_not_wait_for_a_queue_that_stays_away(spec):
    with pytest.raises(Preempted, match=r"a retry finds it \(nobody answers\)"):
        waiting.run_to_end(Queue(["stop away"] + ["away"] * 1000), spec)


def test_a_job_that_was_stopped_is_not_submitted_again_for_outputs_that_dvc_cleared_away(spec):
    """It was found with its result, ended while it was told to stop, and its outputs are gone."""
    queue = Queue(finds=["stop"])

    class Ending(Running):
        def stop(self) -> None:
            (next(Path("checkpoints").iterdir()) / "result.json").write_text(RESULT)
            queue.job = None
            self.stops += 1

    queue.job = Ending(Path())
    with pytest.raises(Preempted, match="stopped before the job was submitted"):
        waiting.run_to_end(queue, spec)
    assert queue.submissions == 0
