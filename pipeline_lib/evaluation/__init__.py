"""Evaluation: suites as versioned YAML, pass@1 / pass@k / cons@k with bootstrap intervals (v2 D.1).

`suites` reads the definitions, `evaluate` samples, judges and counts, `statistics` is the arithmetic, `report`
the typed result. Importing this package imports neither torch nor MLflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline_lib.evaluation.report import EvaluationReport, SuiteReport, read_report, write_report
from pipeline_lib.evaluation.suites import Suite, load_suite, suite_names, suite_sources

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline_lib.evaluation.evaluate import Bootstrap
    from pipeline_lib.rollout import Generator
    from pipeline_lib.types import Problem, SamplingParams

__all__ = [
    "EvaluationReport",
    "Suite",
    "SuiteReport",
    "evaluate_model",
    "load_suite",
    "read_report",
    "suite_names",
    "suite_sources",
    "write_report",
]


def evaluate_model(
    generator: Generator,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite,
    problems: Sequence[Problem],
    seed: int,
    *,
    sampling: SamplingParams | None = None,
    target_language: str = "en",
    bootstrap: Bootstrap | None = None,
) -> SuiteReport:
    """Ask a model every one of `problems` and return the suite's numbers.

    Args:
        sampling: How to sample; by default as the suite says.
        seed: Decides every random choice; the same seed, weights and problems give the same report.
        target_language: What the language measures are measured against.
    """
    from pipeline_lib.evaluation.evaluate import sample_suite, summarise

    sampling = sampling or suite.resolve()
    judged = sample_suite(
        generator, tokenizer, suite, problems, sampling, seed=seed, target_language=target_language
    )
    return summarise(suite, judged, sampling, target_language=target_language, bootstrap=bootstrap)
