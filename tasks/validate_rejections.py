"""Gate: the rejection-sampling data (format, verdicts verified again, language, repetition, overlap, balance)."""

from __future__ import annotations

from tasks._gate import check_sample_file
from tasks._main import StageContext, run_stage


def validate_rejections(ctx: StageContext) -> None:
    """Check the samples against their problems and the benchmarks."""
    check_sample_file(ctx, "data/rejections/train.parquet")


if __name__ == "__main__":
    run_stage(
        "validate_rejections", validate_rejections, inputs=["data/rejections/train.parquet", "data/problems"]
    )
