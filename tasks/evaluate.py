"""One model on every suite of the run: pass@1, pass@k, cons@k with intervals, format, language, length (v2 D.1)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tasks._main import StageContext, run_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline_lib.evaluation.evaluate import JudgedSample

TABLE_ROWS = 50
"""Samples of each suite shown in MLflow."""


def evaluate(ctx: StageContext) -> None:
    """Sample models/<item> on data/problems/benchmarks/<suite>.parquet; write reports/evaluation/<item>.json."""
    from pipeline_lib.data.schema import read_problems
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.evaluation import EvaluationReport, load_suite, write_report
    from pipeline_lib.evaluation.evaluate import Bootstrap, choose_problems, sample_suite, summarise
    from pipeline_lib.modeling import load_tokenizer
    from pipeline_lib.rollout import open_generator

    section, run = ctx.section, ctx.params.run
    if ctx.item is None:
        raise ConfigError("evaluate", None, "takes the name of a directory under models/")
    model = ctx.root / "models" / ctx.item
    tokenizer = load_tokenizer(model)
    generator = open_generator(model, ctx.params.engine)
    suites = {}
    try:
        for name in section.suites:
            suite = load_suite(name)
            problems = choose_problems(
                read_problems(ctx.root / f"data/problems/benchmarks/{name}.parquet"), suite, section.problems
            )
            sampling = suite.resolve(
                samples=section.samples,
                temperature=section.temperature,
                top_p=section.top_p,
                max_new_tokens=section.max_new_tokens,
            )
            judged = sample_suite(
                generator,
                tokenizer,
                suite,
                problems,
                sampling,
                seed=run.seed,
                target_language=run.target_language,
                on_progress=_progress(ctx.item, name),
            )
            suites[name] = summarise(
                suite,
                judged,
                sampling,
                target_language=run.target_language,
                bootstrap=Bootstrap(section.bootstrap, section.confidence),
            )
            ctx.run.log_table(f"samples_{name}", COLUMNS, _rows(judged))
    finally:
        generator.close()
    report = EvaluationReport(ctx.item, run.seed, suites)
    write_report(ctx.root / "reports" / "evaluation" / f"{ctx.item}.json", report)
    ctx.run.log_metrics(report.metrics())


COLUMNS = ("problem", "prompt", "expected", "response", "verdict", "tokens")


def _rows(judged: Sequence[Sequence[JudgedSample]]) -> list[list[object]]:
    """The first sample of the first problems."""
    first = [group[0] for group in judged[:TABLE_ROWS]]
    return [
        [
            sample.problem.id,
            sample.problem.prompt,
            sample.problem.answer or "\n".join(sample.problem.tests),
            sample.completion.text,
            sample.verdict.outcome.value,
            len(sample.completion.token_ids),
        ]
        for sample in first
    ]


def _progress(model: str, suite: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        print(f"evaluate@{model}: {suite} {done}/{total} problems", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    run_stage("evaluate", evaluate, inputs=["models/{item}", "data/problems/benchmarks"], takes_item="model")
