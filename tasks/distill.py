"""A small student learns from the teacher's samples: SFT only, no reinforcement learning (L ch.4, v2 Table 6)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.sft",)


def distill(ctx: StageContext) -> None:
    """Prepare the student's own base and fine-tune it on data/distillation."""
    from pipeline_lib.errors import ConfigError
    from tasks._training import student_base, train_sft

    if ctx.item not in ctx.params.students:
        raise ConfigError("student", ctx.item, "is not one of distill.students in params.yaml")
    section = ctx.params.students[ctx.item]
    with student_base(ctx, ctx.item) as start:
        train_sft(
            ctx, section, start=start, samples="data/distillation/train.parquet", model=f"models/{ctx.item}"
        )


if __name__ == "__main__":
    run_stage("distill", distill, inputs=["data/distillation"], takes_item="student")
