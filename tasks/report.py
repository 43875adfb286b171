"""The page people look at (reports/report.html) and the table behind it (reports/results.json)."""

from __future__ import annotations

from tasks._main import StageContext, run_stage


def report(ctx: StageContext) -> None:
    """Read what the stages wrote and render it."""
    from pipeline_lib.report.load import load_report_data
    from pipeline_lib.report.page import render
    from pipeline_lib.report.results import results_text
    from pipeline_lib.storage.atomic import write_bytes

    data = load_report_data(ctx.root, ctx.params)
    write_bytes(ctx.root / "reports" / "results.json", results_text(data.evaluations).encode())
    page = ctx.root / "reports" / "report.html"
    write_bytes(page, render(data).encode())
    ctx.run.log_artifact(page)
    for model, evaluation in data.evaluations.items():
        ctx.run.log_metrics({f"{model}/{name}": value for name, value in evaluation.summary().items()})


if __name__ == "__main__":
    run_stage("report", report, inputs=["reports/evaluation", "data/rollouts"])
