"""What every kind of job shares: where it runs, its checkpoints, its metrics, how it ends."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import Preempted
from pipeline_lib.storage.atomic import write_bytes, write_json
from pipeline_lib.training.checkpoint import CheckpointStore
from pipeline_lib.training.distributed import Engine, World
from pipeline_lib.training.heartbeat import Heartbeat
from pipeline_lib.training.metrics import Row, to_csv
from pipeline_lib.training.preemption import Preemption
from pipeline_lib.training.progress import Progress
from pipeline_lib.training.spec import JobSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline_lib.tracking import StageRun

RESULT = "result.json"


@dataclass(frozen=True)
class JobContext:
    """One process of a running job."""

    spec: JobSpec
    root: Path
    """The worktree; the spec's paths are relative to it."""
    folder: Path
    """The job's own directory: checkpoints and result."""
    world: World
    store: CheckpointStore
    preemption: Preemption
    heartbeat: Heartbeat
    run: StageRun | None
    """The stage's MLflow run, on rank 0, when a stage started the job."""

    def input(self, role: str) -> Path:
        """Path of an input."""
        return self.root / self.spec.inputs[role]

    def output(self, role: str) -> Path:
        """Path of an output."""
        return self.root / self.spec.outputs[role]

    def progress(self, total: int, start: int) -> Progress:
        """The progress line, from the step that the job begins or goes on with; silent except on rank 0."""
        self.heartbeat.reached(start)
        return Progress(self.spec.name, total, start=start, shown=self.world.is_first)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """Send a step's numbers to MLflow."""
        if self.run is not None:
            self.run.log_metrics(row, step)

    def leave_if_asked(
        self, step: int, engines: Mapping[str, Engine], state: Mapping[str, Any], tensors: Mapping[str, Any]
    ) -> None:
        """After SIGTERM: checkpoint at `step`, then Preempted. Every rank calls it at every step boundary."""
        self.heartbeat.reached(step)
        if self.preemption.asked():
            self.store.save(step, engines, state, tensors)
            raise Preempted(
                f"{self.spec.name}: asked to stop; checkpoint written at step {step}. Start it again to go on."
            )

    def finish(
        self,
        engine: Engine,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        summary: Mapping[str, float],
    ) -> None:
        """Write the model, the plot and the result."""
        from pipeline_lib.modeling import save_model

        with engine.whole_weights():
            if self.world.is_first:
                save_model(lm, tokenizer, self.output("model"))
        self.write_result(rows, summary)

    def write_result(self, rows: Sequence[Row], summary: Mapping[str, float]) -> None:
        """Write the plot (where the stage has one) and, last of all, the result: the sign that the job is done."""
        if self.world.is_first:
            if "plot" in self.spec.outputs:
                write_bytes(self.output("plot"), to_csv(rows).encode())
            write_json(self.folder / RESULT, dict(summary))
        self.world.barrier()


def attached_run() -> StageRun | None:
    """The stage's MLflow run, if a stage started this process."""
    if "R1_MLFLOW_JOURNAL" not in os.environ:
        return None
    from pipeline_lib.tracking import attach_run

    return attach_run()
