"""The operators of the pipeline's DAGs: run one DVC stage, and ask a person before a promotion.

Wiring only. What they do lives in `pipeline_lib.orchestration`, which knows nothing of Airflow.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _triggers import StageTrigger
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseOperator, BaseOperatorLink, Connection
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException

from pipeline_lib.orchestration import detached, links
from pipeline_lib.orchestration.detached import Attempt, Outcome
from pipeline_lib.orchestration.dvc_output import How
from pipeline_lib.orchestration.runner import StageFailed, StageResult
from pipeline_lib.orchestration.worktree import run_name, worktree_path
from pipeline_lib.storage.s3 import KEYS_FROM

if TYPE_CHECKING:
    from airflow.sdk import Context

ROOT = Path(__file__).resolve().parents[1]
"""The main checkout: where dvc.yaml, the runs and the DVC cache are."""

ERROR_KEY = "error"
"""XCom key of a failed task's message, for those who read it over the REST API."""

GONE = "gone"
"""Instead of a state: Airflow knows the task instance no more."""

ENDED_BY_A_PERSON = ("failed", "success", "skipped", "removed", "restarting", GONE)
"""States of a task whose worker is told to end that mean: somebody wants its stage stopped. In any other state Airflow gave the
task to another attempt (a scheduler that was restarted, heartbeats that came late), or only this worker is being shut down."""

HERE_S = 10.0
"""A stage that is over sooner (most that are restored) is not worth a deferral, which costs two starts of a worker."""

ANSWER_S = 2.5
"""How long a worker that has to end waits for Airflow to say why."""


AWS_CONNECTION = "aws_default"
"""The Airflow connection whose credentials stages get, if somebody has defined it."""


def aws_environment() -> dict[str, str]:
    """Return the connection as the AWS_* variables that boto3 and DVC read; empty where nobody has defined it.

    Airflow masks its secrets in the task's log as soon as it is read; the variables go to the stage's process, never to a file.
    """
    try:
        connection = Connection.get(AWS_CONNECTION)
    except AirflowNotFoundException:
        return {}
    extra = connection.extra_dejson
    given = {
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
        "AWS_ENDPOINT_URL": extra.get("endpoint_url"),
        "AWS_DEFAULT_REGION": extra.get("region_name"),
        KEYS_FROM: f"the Airflow connection {AWS_CONNECTION}" if connection.login else None,
    }
    return {name: str(value) for name, value in given.items() if value}


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

    The stage has a process of its own that outlives this one; an attempt after a lost worker, scheduler or triggerer
    finds it (`pipeline_lib.orchestration.detached`). Deferrable, the task waits in the triggerer and holds no worker.
    A crash or a preemption is retried; bad input (exit code 2) and a failed gate (3) are not.
    No field is a template: what a person typed into the form never becomes code or a command.

    Args:
        stage, item: The stage, and the value of its matrix.
        deferrable: Airflow's own default is `[operators] default_deferrable`.
    """

    template_fields = ()
    operator_extra_links = (MlflowRunLink(), DataDocsLink())
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        stage: str,
        item: str | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.item = item
        self.deferrable = deferrable
        self.mlflow_url = ""
        self.data_docs_url = ""
        self._told_to_end = False

    @property
    def address(self) -> str:
        """The stage as DVC names it."""
        return self.stage if self.item is None else f"{self.stage}@{self.item}"

    def execute(self, context: Context) -> str:
        """Run the stage and return how it was done: computed, restored from cache, unchanged."""
        ti = context["ti"]
        run = run_name(ti.dag_id, ti.run_id)
        worktree = worktree_path(ROOT, run)
        self._push_links_known_now(ti, run)
        attempt = detached.start(
            worktree, self.address, {"R1_PIPELINE_RUN": run, **aws_environment()}, self._say
        )
        if self._told_to_end:
            self._end_early(ti, attempt)
        reader = str(ti.try_number) if self.deferrable else None
        outcome = self._follow(ti, attempt, reader)
        if outcome is None:
            trigger = StageTrigger(str(worktree), self.address, attempt.id, str(reader))
            self.defer(trigger=trigger, method_name="execute_complete")
        return self._conclude(ti, run, outcome)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Go on when the trigger has fired: with the outcome of the stage."""
        ti = context["ti"]
        run = run_name(ti.dag_id, ti.run_id)
        self._push_links_known_now(ti, run)  # this is another process: it would store empty links at its end
        return self._conclude(ti, run, Outcome(**event))

    def on_kill(self) -> None:
        """Note that this process has to end; `_follow` does the rest, for a signal handler may not talk to Airflow."""
        self._told_to_end = True

    def _say(self, line: str) -> None:
        self.log.info("%s", line)

    def _follow(self, ti: Any, attempt: Attempt, reader: str | None) -> Outcome | None:
        """Hand on the stage's output until it ends; for a `reader`, a trigger that is to go on, only for the first seconds."""
        follower = detached.Follower(attempt, reader)
        until = time.monotonic() + HERE_S
        while True:
            lines, outcome = follower.poll()
            for line in lines:
                self._say(line)
            if outcome is not None:
                return outcome
            if self._told_to_end:
                self._end_early(ti, attempt)
            if reader is not None and time.monotonic() > until:
                follower.leave()
                return None
            time.sleep(0.5)

    def _end_early(self, ti: Any, attempt: Attempt) -> None:
        """Stop the stage if a person wants it (mark, clear, delete), and leave it alone if only this process has to go.

        Airflow kills this process in five seconds. Without its answer the stage is stopped: it writes its checkpoint, so little is lost.
        """
        self._told_to_end = False
        state: list[str | None] = []
        question = threading.Thread(target=lambda: state.append(_state(ti)), daemon=True)
        question.start()
        question.join(ANSWER_S)
        if not state or state[0] in ENDED_BY_A_PERSON:
            self.log.info("the task is %s now; stopping its stage, SIGTERM first", *(state or ["unknown"]))
            attempt.ask_to_stop()
        if not attempt.asked_to_stop():
            raise AirflowException(
                f"this worker has to end; {self.address} goes on, the next attempt finds it"
            )

    def _conclude(self, ti: Any, run: str, outcome: Outcome) -> str:
        """Make of the outcome what Airflow understands: a return value, a failure that is retried, one that is not."""
        try:
            result = outcome.result(self.address)
        except StageFailed as failure:
            ti.xcom_push(ERROR_KEY, str(failure))
            if not failure.retry:
                raise AirflowFailException(str(failure)) from None
            if failure.preempted:
                self.log.warning("preempted; its checkpoint is kept and the next attempt continues from it")
            raise AirflowException(str(failure)) from None
        self.log.info("%s: %s in %.1f s", self.address, result.how.value.upper(), result.seconds)
        server = links.tracking_server(os.environ, ROOT)
        if server is not None:
            self._link_to_the_run_itself(server, worktree_path(ROOT, run), result)
        return result.how.value

    def _push_links_known_now(self, ti: Any, run: str) -> None:
        """Airflow stores links when a task ends; ours are wanted while it runs."""
        server = links.tracking_server(os.environ, ROOT)
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
            elif result.how is not How.COMPUTED:
                page = server.find_restored(worktree, self.address)
                if page is None:
                    self.log.warning("the MLflow link stays a search: no run has written these outputs")
                    return
                self.mlflow_url = page
                self.log.info("computed earlier: %s", page)
                if links.is_gate(self.stage):  # its Data Docs are where it was computed, with its run
                    self.data_docs_url = f"{page}/artifacts"
        except links.MlflowUnreachable as error:
            self.log.warning("the MLflow link stays a search: %s", error)


def _state(ti: Any) -> str | None:
    """Return the state the task has now, whichever attempt it is in; `GONE` where it was deleted."""
    states = ti.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    state = next(iter(states.get(ti.run_id, {}).values()), GONE)
    return None if state is None else str(state)


class PromotionApproval(ApprovalOperator):
    """Wait for a person before models are registered and promoted, if the form asked for it."""

    def execute(self, context: Context) -> Any:
        """Return at once unless the run's `require_approval` is ticked."""
        if not context["params"]["require_approval"]:
            self.log.info("require_approval is off: promotion follows mlflow/registry_policy.yaml alone")
            return None
        return super().execute(context)
