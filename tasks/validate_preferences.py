"""Gate: the reward models' data, preference pairs and safety examples (ids, contradictions, overlap, balance)."""

from __future__ import annotations

from tasks._gate import run_check
from tasks._main import StageContext, run_stage


def validate_preferences(ctx: StageContext) -> None:
    """Check the preference pairs and the safety examples."""
    from pipeline_lib.quality.gates import check_preferences

    run_check(ctx, check_preferences)


if __name__ == "__main__":
    run_stage("validate_preferences", validate_preferences, inputs=["data/problems"])
