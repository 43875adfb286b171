"""reports/results.json: models × suites as numbers, for `make demo`, `dvc metrics diff` and anyone's script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline_lib.evaluation.report import EvaluationReport


def results_tree(evaluations: Mapping[str, EvaluationReport]) -> dict[str, Any]:
    """Return `models` (model -> suite -> scores) and `summary` (model -> measures over suites). All rates in [0, 1]."""
    return {
        "models": {
            model: {
                name: {
                    "pass@1": suite.pass_at_1.mean,
                    "low": suite.pass_at_1.low,
                    "high": suite.pass_at_1.high,
                    f"pass@{suite.samples}": suite.pass_at_k.mean,
                    **({f"cons@{suite.samples}": suite.cons_at_k.mean} if suite.cons_at_k else {}),
                }
                for name, suite in report.suites.items()
            }
            for model, report in evaluations.items()
        },
        "summary": {model: report.summary() for model, report in evaluations.items()},
    }


def results_text(evaluations: Mapping[str, EvaluationReport]) -> str:
    """`results_tree` as JSON in the order of evaluate.models and evaluate.suites: a table is read from top to bottom."""
    return json.dumps(results_tree(evaluations), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
