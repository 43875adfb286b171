"""The same student by GRPO alone: what distillation is compared with (v2, distillation against reinforcement learning)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.grpo",)


def train_student_rl(ctx: StageContext) -> None:
    """Prepare the student's own base and train it as R1-Zero was trained."""
    from tasks._training import student_base, train_grpo

    with student_base(ctx, ctx.section.student) as start:
        train_grpo(ctx, start=start, model="models/student_rl")


if __name__ == "__main__":
    run_stage("train_student_rl", train_student_rl, inputs=["data/hard"])
