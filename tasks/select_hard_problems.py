"""Difficulty: the base model's own pass rate on every problem; what it already solves is dropped (lesson ch.1)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def select_hard_problems(ctx: StageContext) -> None:
    """Write data/hard/train.parquet with difficulties, and the histogram of pass rates."""
    from pipeline_lib.data.difficulty import select_hard
    from pipeline_lib.data.schema import read_problems, write_problems
    from pipeline_lib.seeds import derive_seed
    from pipeline_lib.types import Outcome
    from tasks._sampling import sampled

    section = ctx.section
    problems = read_problems(ctx.root / "data/problems/train.parquet")
    outcomes: dict[str, list[Outcome]] = {problem.id: [] for problem in problems}
    with sampled(ctx, "base", problems, section) as samples:
        for judged in samples:
            outcomes[judged.problem.id].append(judged.outcome)
        selection = select_hard(
            problems,
            outcomes,
            drop_above=section.drop_above,
            keep_unsolved=section.keep_unsolved,
            max_problems=section.max_problems,
            seed=derive_seed(ctx.params.run.seed, ctx.stage),
        )
        write_problems(ctx.root / "data/hard/train.parquet", selection.kept)
        ctx.write_metrics(
            {
                "problems": len(problems),
                "kept": len(selection.kept),
                "dropped_too_easy": selection.too_easy,
                "dropped_unsolved": selection.unsolved_dropped,
                "dropped_unmeasured": selection.unmeasured,
                "over_limit": selection.over_limit,
                "mean_pass_rate": round(selection.mean_pass_rate, 6),
                "pass_rate_histogram": {
                    f"{place / len(selection.histogram):.1f}": count
                    for place, count in enumerate(selection.histogram)
                },
            }
        )


if __name__ == "__main__":
    run_stage(
        "select_hard_problems", select_hard_problems, inputs=["models/base", "data/problems/train.parquet"]
    )
