"""This project's trainer, one step at a time: `python -m benchmarks.worker_r1 <work.json>` (started by `_sides`).

It is the training job itself, `training.grpo.run_grpo`; only its metrics end up here and not in MLflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._work import Phases, Pipe, Turn, Work, heldout_accuracy, judging, read_work


def main() -> None:
    """Train until told to stop."""
    pipe, work, phases = Pipe(), read_work(), Phases()
    from pipeline_lib.startup import import_model_libraries

    import_model_libraries()

    from pipeline_lib.training import grpo
    from pipeline_lib.training.checkpoint import CheckpointStore
    from pipeline_lib.training.context import JobContext
    from pipeline_lib.training.distributed import Engine, join_world
    from pipeline_lib.training.heartbeat import Heartbeat
    from pipeline_lib.training.preemption import Preemption
    from pipeline_lib.training.rollout_step import Sampler
    from pipeline_lib.training.update import PolicyTrainer

    engine = engine_of(work)
    world = join_world(engine)

    @dataclass(frozen=True)
    class Context(JobContext):
        turn: Turn

        def log(self, row: Mapping[str, float], step: int) -> None:
            samples = float(work.problems_per_step * work.group_size)
            self.turn.end(
                samples=samples,
                tokens=row["length"] * samples,
                reward=row["reward"],
                accuracy=row["accuracy"],
                trained_tokens=row["trained_tokens"],
                grad_norm=row["grad_norm"],
            )
            self.turn.begin()

        def progress(self, total: int, start: int) -> Any:
            return _Silent()

    phases.wrap(PolicyTrainer, "_forward", "forward")
    phases.wrap(Engine, "backward", "backward")
    phases.wrap(Engine, "step", "step")
    phases.wrap(PolicyTrainer, "update", "update")
    phases.wrap(Sampler, "groups", "sample")
    with judging(work) as judge, tempfile.TemporaryDirectory() as folder:
        held: dict[str, Any] = {}
        build = grpo.build_generator

        def building(engine: Any, lm: Any, tokenizer: Any, **kwargs: Any) -> Any:
            generator = build(engine, lm, tokenizer, **kwargs)
            held.update(lm=lm, tokenizer=tokenizer)
            return generator

        grpo.build_generator = building
        turn = Turn(pipe, phases, lambda: heldout_accuracy(work, held["lm"], held["tokenizer"], judge))

        def score(problems: Any, completions: Any, _weights: Any, _learned: Any) -> Any:
            with phases.time("verify"):
                return judge(problems, completions)

        class Loop(grpo._Loop):
            def run(self) -> None:
                pipe.tell(ready=True)
                turn.begin()
                super().run()

        grpo._Loop = Loop
        context = Context(
            spec=spec_of(work, engine),
            root=Path("/"),
            folder=Path(folder),
            world=world,
            store=CheckpointStore(Path(folder), world),
            preemption=Preemption(world),
            heartbeat=Heartbeat(Path(folder), world.rank, world.size),
            run=None,
            turn=turn,
        )
        grpo.run_grpo(context, score, {})


class _Silent:
    """No progress bar: its redrawing is not part of a step."""

    def step(self, _step: int, _row: Mapping[str, float]) -> None:
        """Nothing."""


def engine_of(work: Work) -> Any:
    """The work's engine section."""
    from pipeline_lib.params import EngineParams, VllmParams

    return EngineParams(
        rollout=work.rollout,
        world_size=work.world_size,
        zero_stage=work.zero_stage,
        dtype=work.dtype,
        offload="none",
        threads=work.threads,
        launcher="local",
        vllm=VllmParams(
            kv_cache_gib=1.0, gpu_memory_utilization=0.45, max_model_len=2048, enforce_eager=True
        ),
    )


def spec_of(work: Work, engine: Any) -> Any:
    """The work as a training job."""
    from pipeline_lib.params import GrpoParams
    from pipeline_lib.training.spec import JobSpec

    section = GrpoParams(
        algorithm=work.algorithm,
        steps=work.steps,
        problems_per_step=work.problems_per_step,
        group_size=work.group_size,
        max_new_tokens=work.max_new_tokens,
        temperature=work.temperature,
        learning_rate=work.learning_rate,
        warmup_steps=work.warmup_steps,
        kl_coef=work.kl_coef,
        microbatch_tokens=work.microbatch_tokens,
        checkpoint_every=work.steps + 1,
        sample_rows=0,
        rewards={"accuracy": work.accuracy, "format": work.format},
    )
    return JobSpec(
        kind="grpo",
        stage="train_r1_zero",
        seed=work.seed,
        section=section.model_dump(mode="json"),
        engine=engine.model_dump(mode="json"),
        inputs={"model": str(Path(work.model).resolve()), "problems": str(Path(work.problems).resolve())},
        outputs={"model": "unused", "rollouts": "unused"},
        switches=work.switches,
    )


if __name__ == "__main__":
    main()
