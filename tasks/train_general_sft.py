"""Stage 3: supervised fine-tuning of the base again, not of the RL model, on rejection samples and general data (v1 §2.3.3)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage

RUNS = ("pipeline_lib.training.sft",)


def train_general_sft(ctx: StageContext) -> None:
    """SFT of models/base on data/rejections; with `skip`, the stage-2 model is handed on unchanged (ablation)."""
    from pipeline_lib.errors import InvariantBroken
    from pipeline_lib.storage.hash import hash_path
    from tasks._training import hand_on, train_sft

    if ctx.section.skip:
        hand_on(ctx, "models/reasoning_rl", "models/general_sft")
        return
    base, stage_2 = (hash_path(ctx.root / "models" / name) for name in ("base", "reasoning_rl"))
    if base == stage_2:
        raise InvariantBroken(
            "stage 3 must start from the base model, and models/base holds the stage-2 model's weights"
        )
    ctx.run.set_tags({"starts_from": f"base@{base}"})
    train_sft(
        ctx,
        ctx.section,
        start="models/base",
        samples="data/rejections/train.parquet",
        model="models/general_sft",
    )


if __name__ == "__main__":
    run_stage("train_general_sft", train_general_sft, inputs=["data/rejections"])
