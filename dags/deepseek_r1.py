"""DeepSeek-R1 from end to end: R1-Zero, the four stages, distillation, evaluation, release.

The graph is `dvc.yaml`; this file only projects it. A run gets its own git worktree under `runs/`
and ends as branch `run/<id>`; a stage that any run has computed before is restored, not recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from _operators import PromotionApproval
from _projection import DAG_DEFAULTS, ROOT, create_run, project
from _trigger_form import pipeline_form
from airflow.sdk import DAG

from pipeline_lib.orchestration.form import overrides_from_form
from pipeline_lib.orchestration.graph import load_graph


def _parameters(form: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], str]:
    return form["profile"], overrides_from_form(form), form["revision"]


with DAG(
    "deepseek_r1",
    description=__doc__.partition("\n")[0],
    doc_md=__doc__,
    params=pipeline_form(),
    **DAG_DEFAULTS,
) as dag:
    tasks, finish_run = project(load_graph(ROOT), create_run(_parameters))
    approval = PromotionApproval(
        task_id="approve_promotion",
        subject="Register and promote the models of this run?",
        body="`report` is done. Approve: register_models applies mlflow/registry_policy.yaml. Reject: nothing is registered.",
        defaults=PromotionApproval.REJECT,
        response_timeout=timedelta(days=1),
    )
    tasks["report"] >> approval >> tasks["register_models"]
