"""Distillation data: the teacher's correct, readable samples on reasoning and general prompts (L ch.4)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def collect_distillation(ctx: StageContext) -> None:
    """Sample the chosen teacher; keep correct, single-language, well-formed responses; optionally add the stage-3 data."""
    from pipeline_lib.data.schema import read_problems, read_samples, write_samples
    from pipeline_lib.rejection_sampling import draw_problems, merge, select
    from pipeline_lib.seeds import derive_seed
    from tasks._sampling import sampled

    section = ctx.section
    seed = derive_seed(ctx.params.run.seed, ctx.stage, "problems")
    problems = draw_problems(read_problems(ctx.root / "data/problems/train.parquet"), section.problems, seed)
    if section.general_problems:
        general = read_problems(ctx.root / "data/problems/general.parquet")
        problems += draw_problems(general, section.general_problems, seed)
    language = ctx.params.run.target_language
    with sampled(ctx, section.teacher, problems, section) as judged:
        selection = select(
            judged, section, target_language=language, source=section.teacher, polish_format=False
        )
        samples = list(selection.samples)
        if section.reuse_rejections:
            samples = merge(samples, read_samples(ctx.root / "data/rejections/train.parquet"))
        write_samples(ctx.root / "data/distillation/train.parquet", samples)
        ctx.write_metrics({**selection.metrics(), "written": len(samples)})


if __name__ == "__main__":
    run_stage("collect_distillation", collect_distillation, inputs=["data/problems", "data/rejections"])
