"""Problems, preference data and benchmarks: read the sources, drop repeats and whatever is in a benchmark."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def prepare_problems(ctx: StageContext) -> None:
    """Write data/problems and count what was dropped and why."""
    from pipeline_lib.data import schema
    from pipeline_lib.data.assembly import assemble
    from pipeline_lib.evaluation.suites import suite_sources

    sets = assemble(ctx.section, suite_sources(ctx.params.evaluate.suites), seed=ctx.params.run.seed)
    folder = ctx.root / "data/problems"
    schema.write_problems(folder / "train.parquet", sets.train)
    schema.write_problems(folder / "general.parquet", sets.general)
    schema.write_preferences(folder / "preferences.parquet", sets.preferences)
    schema.write_safety(folder / "safety.parquet", sets.safety)
    for suite, problems in sets.benchmarks.items():
        schema.write_problems(folder / "benchmarks" / f"{suite}.parquet", problems)
    ctx.write_metrics(sets.counts)


if __name__ == "__main__":
    run_stage("prepare_problems", prepare_problems)
