"""Stage 1 data: R1-Zero's own correct, readable chains of thought, polished into the format (v2 B.3.2)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def collect_cold_start(ctx: StageContext) -> None:
    """Sample R1-Zero on hard problems; keep correct, single-language chains; prefer those that check themselves."""
    from pipeline_lib.data.schema import read_problems, write_samples
    from pipeline_lib.rejection_sampling import draw_problems, prefer_verification, select
    from pipeline_lib.seeds import derive_seed
    from tasks._sampling import sampled

    section = ctx.section
    seed = derive_seed(ctx.params.run.seed, ctx.stage, "problems")
    problems = draw_problems(read_problems(ctx.root / "data/hard/train.parquet"), section.problems, seed)
    with sampled(ctx, "r1_zero", problems, section) as judged:
        selection = select(
            judged,
            section,
            target_language=ctx.params.run.target_language,
            source="r1_zero",
            polish_format=section.polish,
        )
        samples = prefer_verification(
            selection.samples, section.prefer_verification, section.max_samples, seed
        )
        write_samples(ctx.root / "data/cold_start/train.parquet", samples)
        ctx.write_metrics({**selection.metrics(), "written": len(samples)})


if __name__ == "__main__":
    run_stage("collect_cold_start", collect_cold_start, inputs=["data/hard"])
