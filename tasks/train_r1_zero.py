"""R1-Zero: GRPO from the base model with automatic rewards alone, no SFT at all (L ch.1)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.grpo",)


def train_r1_zero(ctx: StageContext) -> None:
    """One training job under the launcher."""
    from tasks._training import train_grpo

    train_grpo(ctx, start="models/base", model="models/r1_zero")


if __name__ == "__main__":
    run_stage("train_r1_zero", train_r1_zero, inputs=["data/hard"])
