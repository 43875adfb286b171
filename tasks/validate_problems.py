"""Gate: the problem sets and every benchmark (schema, ids, answers, tests, overlap, language, balance)."""

from __future__ import annotations

from tasks._gate import run_check
from tasks._main import StageContext, run_stage


def validate_problems(ctx: StageContext) -> None:
    """Check data/problems, the reward models' data apart."""
    from pipeline_lib.quality.gates import check_problems

    run_check(ctx, check_problems)


if __name__ == "__main__":
    run_stage("validate_problems", validate_problems, inputs=["data/problems"])
