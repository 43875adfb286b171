"""Helpfulness (Bradley-Terry, pairwise) and safety (pointwise) reward models, from the base model (v2 B.3.1)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.reward_model",)


def train_reward_models(ctx: StageContext) -> None:
    """One job trains both and measures them on pairs kept aside."""
    from tasks._training import train

    train(
        ctx,
        "reward_models",
        ctx.section,
        inputs={
            "model": "models/base",
            "preferences": "data/problems/preferences.parquet",
            "safety": "data/problems/safety.parquet",
        },
        outputs={"model": "models/reward_models"},
    )


if __name__ == "__main__":
    inputs = ["data/problems/preferences.parquet", "data/problems/safety.parquet"]
    run_stage("train_reward_models", train_reward_models, inputs=inputs)
