"""Stage 1: supervised fine-tuning of the base on the cold-start chains; teaches the format, not the reasoning (L ch.4)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.sft",)


def train_cold_start_sft(ctx: StageContext) -> None:
    """SFT of models/base on data/cold_start; with `skip`, the base is handed on unchanged (ablation)."""
    from tasks._training import hand_on, train_sft

    if ctx.section.skip:
        hand_on(ctx, "models/base", "models/cold_start")
        return
    train_sft(
        ctx,
        ctx.section,
        start="models/base",
        samples="data/cold_start/train.parquet",
        model="models/cold_start",
    )


if __name__ == "__main__":
    run_stage("train_cold_start_sft", train_cold_start_sft, inputs=["data/cold_start"])
