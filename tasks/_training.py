"""What the training stages share: describe the job, launch it, keep its metrics."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks._main import StageContext

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipeline_lib.training.spec import Kind


def train(
    ctx: StageContext,
    kind: Kind,
    section: BaseModel,
    *,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
) -> None:
    """Run one training job under the launcher of `engine.launcher` and write its summary as the stage's metrics."""
    from pipeline_lib.launch import run_job
    from pipeline_lib.seeds import derive_seed
    from pipeline_lib.training.spec import JobSpec

    spec = JobSpec(
        kind=kind,
        stage=ctx.stage,
        item=ctx.item,
        seed=derive_seed(ctx.params.run.seed, ctx.stage, ctx.item),
        section=section.model_dump(mode="json"),
        engine=ctx.params.engine.model_dump(mode="json"),
        inputs=inputs,
        outputs=outputs,
        target_language=ctx.params.run.target_language,
    )
    ctx.write_metrics(run_job(spec))


def train_grpo(ctx: StageContext, *, start: str, model: str, learned_rewards: bool = False) -> None:
    """A reinforcement-learning stage on data/hard, with general prompts and reward models in stage 4."""
    inputs = {"model": start, "problems": "data/hard/train.parquet"}
    if learned_rewards:
        inputs |= {"general": "data/problems/general.parquet", "reward_models": "models/reward_models"}
    outputs = {
        "model": model,
        "plot": f"reports/plots/{ctx.stage}.csv",
        "rollouts": f"data/rollouts/{ctx.stage}.parquet",
    }
    train(ctx, "grpo", ctx.section, inputs=inputs, outputs=outputs)


def train_sft(ctx: StageContext, section: BaseModel, *, start: str, samples: str, model: str) -> None:
    """A supervised fine-tuning stage."""
    name = ctx.stage if ctx.item is None else f"{ctx.stage}-{ctx.item}"
    outputs = {"model": model, "plot": f"reports/plots/{name}.csv"}
    train(ctx, "sft", section, inputs={"model": start, "problems": samples}, outputs=outputs)


def hand_on(ctx: StageContext, source: str, target: str) -> None:
    """An ablation's stage: the model before it, byte for byte, and an empty learning curve."""
    shutil.copytree(ctx.root / source, ctx.root / target)
    plot = ctx.root / "reports" / "plots" / f"{ctx.stage}.csv"
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text("step,loss\n", encoding="utf-8")
    ctx.write_metrics({"skipped": 1})


@contextmanager
def student_base(ctx: StageContext, student: str) -> Iterator[str]:
    """The student's own base model, prepared beside the checkpoints for the time of the stage; its relative path."""
    from pipeline_lib.base_model import prepare_base_model

    path = Path("checkpoints") / "student_bases" / f"{ctx.stage}-{student}"
    shutil.rmtree(ctx.root / path, ignore_errors=True)
    prepare_base_model(ctx.params.students[student].init, ctx.root / path)
    try:
        yield path.as_posix()
    finally:
        shutil.rmtree(ctx.root / path, ignore_errors=True)
