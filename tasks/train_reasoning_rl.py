"""Stage 2: GRPO on reasoning with rule rewards and the language-consistency reward (L ch.4, v2 B.6)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.grpo",)


def train_reasoning_rl(ctx: StageContext) -> None:
    """One training job under the launcher."""
    from tasks._training import train_grpo

    train_grpo(ctx, start="models/cold_start", model="models/reasoning_rl")


if __name__ == "__main__":
    run_stage("train_reasoning_rl", train_reasoning_rl, inputs=["data/hard"])
