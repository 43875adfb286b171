"""Gate: the distillation data (format, verdicts verified again, language, repetition, overlap, balance)."""

from __future__ import annotations

from tasks._gate import check_sample_file
from tasks._main import StageContext, run_stage


def validate_distillation(ctx: StageContext) -> None:
    """Check the samples against their problems and the benchmarks."""
    check_sample_file(ctx, "data/distillation/train.parquet")


if __name__ == "__main__":
    run_stage(
        "validate_distillation",
        validate_distillation,
        inputs=["data/distillation/train.parquet", "data/problems"],
    )
