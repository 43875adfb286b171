"""Stage 3 data: correct, readable samples of the stage-2 model, and general data beside them (v1 §2.3.3)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def sample_rejections(ctx: StageContext) -> None:
    """Many samples a problem, only correct and readable ones kept; general prompts with their reference replies."""
    from pipeline_lib.data.schema import read_problems, write_samples
    from pipeline_lib.rejection_sampling import draw_problems, reference_samples, select
    from pipeline_lib.seeds import derive_seed
    from tasks._sampling import sampled

    section, language = ctx.section, ctx.params.run.target_language
    seed = derive_seed(ctx.params.run.seed, ctx.stage, "problems")
    problems = draw_problems(read_problems(ctx.root / "data/hard/train.parquet"), section.problems, seed)
    with sampled(ctx, "reasoning_rl", problems, section) as judged:
        selection = select(
            judged, section, target_language=language, source="reasoning_rl", polish_format=False
        )
        general: list = []
        if section.general_problems:
            prompts = draw_problems(
                read_problems(ctx.root / "data/problems/general.parquet"), section.general_problems, seed
            )
            general = reference_samples(prompts, "general", language)
        write_samples(ctx.root / "data/rejections/train.parquet", [*selection.samples, *general])
        ctx.write_metrics({**selection.metrics(), "general": len(general)})


if __name__ == "__main__":
    run_stage("sample_rejections", sample_rejections, inputs=["data/hard", "data/problems/general.parquet"])
