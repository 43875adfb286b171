"""Stage 4: GRPO on all tasks; preference rewards only in the last steps (L ch.4, v2 §2.3.4)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.grpo", "pipeline_lib.training.reward_model")


def train_all_task_rl(ctx: StageContext) -> None:
    """One training job under the launcher."""
    from tasks._training import train_grpo

    train_grpo(ctx, start="models/general_sft", model="models/r1", learned_rewards=True)


if __name__ == "__main__":
    run_stage("train_all_task_rl", train_all_task_rl, inputs=["data/hard", "data/problems/general.parquet"])
