"""The operators of the pipeline's DAGs: run one DVC stage, and ask a person before a promotion.

Wiring only. What they do lives in `pipeline_lib.orchestration`, which knows nothing of Airflow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipeline_lib.orchestration import links
from pipeline_lib.orchestration.runner import How, StageFailed, StageResult, StageRun
from pipeline_lib.orchestration.worktree import run_name, worktree_path

if TYPE_CHECKING:
    from airflow.sdk import Context

ROOT = Path(__file__).resolve().parents[1]
"""The main checkout: where dvc.yaml, the runs and the DVC cache are."""

ERROR_KEY = "error"
"""XCom key of a failed task's message, for those who read it over the REST API."""


class MlflowRunLink(BaseOperatorLink):
    """Button "MLflow run": a search for the stage's run at first, the run itself once it is known."""

    name = "MLflow run"

    def get_link(self, operator: StageOperator, *, ti_key: Any) -> str:
        """Return what the operator knows by now; Airflow stores it when the task ends."""
        return operator.mlflow_url


class DataDocsLink(BaseOperatorLink):
    """Button "Data Docs": what Great Expectations found in this run's datasets."""

    name = "Data Docs"

    def get_link(self, operator: StageOperator, *, ti_key: Any) -> str:
        """Return the address on the file server that `make up` starts."""
        return operator.data_docs_url


class StageOperator(BaseOperator):
    """Run one stage of dvc.yaml in the worktree of its DAG run.

    A crash or a preemption is retried; bad input (exit code 2) and a failed gate (3) are not.
    No field is a template: what a person typed into the form never becomes code or a command.
    """

    template_fields = ()
    operator_extra_links = (MlflowRunLink(), DataDocsLink())
    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, item: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.item = item
        self.mlflow_url = ""
        self.data_docs_url = ""

    @property
    def address(self) -> str:
        """The stage as DVC names it."""
        return self.stage if self.item is None else f"{self.stage}@{self.item}"

    def execute(self, context: Context) -> str:
        """Run the stage and return how it was done: computed, restored from cache, unchanged."""
        ti = context["ti"]
        run = run_name(ti.dag_id, ti.run_id)
        worktree = worktree_path(ROOT, run)
        server = links.tracking_server(os.environ, ROOT)
        self._push_links_known_now(ti, server, run)
        self._running = StageRun(worktree, self.address, {"R1_PIPELINE_RUN": run})
        try:
            result = self._running.wait(lambda line: self.log.info("%s", line))
        except StageFailed as failure:
            ti.xcom_push(ERROR_KEY, str(failure))
            if not failure.retry:
                raise AirflowFailException(str(failure)) from None
            if failure.preempted:
                self.log.warning("preempted; its checkpoint is kept and the next attempt continues from it")
            raise AirflowException(str(failure)) from None
        self.log.info("%s: %s in %.1f s", self.address, result.how.value.upper(), result.seconds)
        if server is not None:
            self._link_to_the_run_itself(server, worktree, result)
        return result.how.value

    def on_kill(self) -> None:
        """Stop dvc, the stage and all it started: SIGTERM first, so that a job can write its checkpoint."""
        running: StageRun | None = getattr(self, "_running", None)
        if running is not None:
            running.stop()

    def _push_links_known_now(self, ti: Any, server: links.TrackingServer | None, run: str) -> None:
        """Airflow stores links when a task ends; ours are wanted while it runs."""
        files_url = os.environ.get("R1_FILES_URL")
        if files_url:
            self.data_docs_url = links.data_docs_page(files_url, run, self.stage)
            ti.xcom_push(DataDocsLink().xcom_key, self.data_docs_url)
        if server is not None:
            try:
                self.mlflow_url = server.search_page(self.address, run)
            except links.MlflowUnreachable as error:
                self.log.warning("no MLflow link: %s", error)
            else:
                ti.xcom_push(MlflowRunLink().xcom_key, self.mlflow_url)

    def _link_to_the_run_itself(
        self, server: links.TrackingServer, worktree: Path, result: StageResult
    ) -> None:
        written = links.mlflow_run_of(worktree, self.address)
        try:
            if result.how is How.COMPUTED and written is not None:
                self.mlflow_url = server.run_page(*written)
            elif result.how is not How.COMPUTED and (page := server.find_restored(worktree, self.address)):
                self.mlflow_url = page
                self.log.info("computed earlier: %s", page)
                if links.is_gate(
                    self.stage
                ):  # its Data Docs are where it was computed, and with its MLflow run
                    self.data_docs_url = f"{page}/artifacts"
        except links.MlflowUnreachable as error:
            self.log.warning("the MLflow link stays a search: %s", error)


class PromotionApproval(ApprovalOperator):
    """Wait for a person before models are registered and promoted, if the form asked for it."""

    def execute(self, context: Context) -> Any:
        """Return at once unless the run's `require_approval` is ticked."""
        if not context["params"]["require_approval"]:
            self.log.info("require_approval is off: promotion follows mlflow/registry_policy.yaml alone")
            return None
        return super().execute(context)
