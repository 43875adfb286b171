"""Project dvc.yaml onto an Airflow DAG (design §3): a stage is a task, an edge is an edge.

Groups come from each stage's `meta: {group}`, its pool from `meta: {pool}`, of which it takes one slot (docs/operations.md); a `matrix` stage is a
mapped task, expanded at run time over the run's own parameters. `create_run` comes first, `finish_run` last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from _operators import ERROR_KEY, ROOT, StageOperator, aws_environment
from airflow.sdk import TaskGroup, TriggerRule, get_current_context, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from pipeline_lib.errors import ConfigError, PipelineError
from pipeline_lib.orchestration import worktree
from pipeline_lib.orchestration.graph import Graph, Stage, load_graph, load_yaml
from pipeline_lib.orchestration.runner import StageRun

_log = logging.getLogger(__name__)

RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=10)}
"""For crashes and preemptions; `StageOperator` fails for good on bad input and failed gates."""

DAG_DEFAULTS: Mapping[str, Any] = {
    "schedule": None,
    "catchup": False,
    "max_active_runs": 8,
    "tags": ["r1"],
    "render_template_as_native_obj": False,
}

ItemsOf = Callable[[Stage, Mapping[str, Any], Mapping[str, Any]], tuple[str, ...]]
"""(matrix stage, the run's params.yaml, the trigger form) -> the values to fan out over."""


def project(graph: Graph, first: Any, items_of: ItemsOf | None = None) -> tuple[dict[str, Any], Any]:
    """Create the tasks of `graph` in the current DAG, after `first`; return them by stage, and finish_run."""
    groups: dict[str, TaskGroup] = {}
    tasks: dict[str, Any] = {}
    plans = {
        stage.name: _plan(stage, first, items_of or _items_of_params)
        for stage in graph.stages
        if stage.is_matrix
    }
    for stage in graph.stages:
        if stage.group not in groups:
            group_id = stage.group if stage.group not in graph.names else f"{stage.group}_group"
            title = stage.group.replace("_", " ")
            groups[stage.group] = TaskGroup(group_id, prefix_group_id=False, group_display_name=title)
        with groups[stage.group]:
            tasks[stage.name] = _stage_task(stage, plans.get(stage.name))
    for stage in graph.stages:
        upstream = graph.reduced_upstream(stage.name)
        for name in upstream:
            tasks[name] >> tasks[stage.name]
        if not upstream:
            first >> tasks[stage.name]
    finish = _finish_run()
    read = {name for upstream in graph.upstream.values() for name in upstream}
    for name in graph.names:
        if name not in read:
            tasks[name] >> finish
    return tasks, finish


def _stage_task(stage: Stage, values: Any) -> Any:
    arguments: dict[str, Any] = {
        "task_id": stage.name,
        "stage": stage.name,
        "doc_md": stage.doc or None,
        **RETRIES,
    }
    if stage.pool:
        arguments["pool"] = stage.pool
    if values is None:
        return StageOperator(**arguments)
    return StageOperator.partial(**arguments, map_index_template="{{ task.item }}").expand(item=values)


def _items_of_params(stage: Stage, params: Mapping[str, Any], _form: Mapping[str, Any]) -> tuple[str, ...]:
    return stage.items(params)


def _plan(stage: Stage, first: Any, items_of: ItemsOf) -> Any:
    """Return the values of a matrix stage; outside its group, so that the grid keeps the stages' order."""

    @task(
        task_id=f"plan_{stage.name}",
        **RETRIES,
        doc_md=f"The values `{stage.name}` fans out over in this run.",
    )
    def plan() -> list[str]:
        context = get_current_context()
        path = worktree.worktree_path(ROOT, _name(context))
        return list(_or_fail(lambda: items_of(stage, load_yaml(path / "params.yaml"), context["params"])))

    values = plan()
    first >> values
    return values


def create_run(overrides_of: Callable[[Mapping[str, Any]], tuple[str | None, dict[str, Any], str]]) -> Any:
    """Return the task that makes the run's worktree.

    Args:
        overrides_of: form -> (profile or None to keep the commit's parameters, dotted overrides, revision).
    """

    @task(task_id="create_run", **RETRIES, doc_md=worktree.create_run.__doc__)
    def create() -> str:
        context = get_current_context()
        return _or_fail(lambda: _create(context, overrides_of))

    return create()


def restore_inputs(first: Any, graph: Graph) -> Any:
    """Return the task that restores what `graph` reads but does not compute, from the commit's dvc.lock."""
    whole = load_graph(ROOT)
    before = sorted({name for stage in graph.names for name in whole.ancestors(stage)} - set(graph.names))

    @task(task_id="restore_inputs", **RETRIES, doc_md=StageRun.restore.__doc__)
    def restore() -> list[str]:
        name = _name(get_current_context())
        path = worktree.worktree_path(ROOT, name)
        locked = load_yaml(path / "dvc.lock").get("stages") or {}
        wanted = [address for address in locked if address.partition("@")[0] in before]
        attempt = StageRun(path, "restore_inputs", {"R1_PIPELINE_RUN": name, **aws_environment()})
        _or_fail(lambda: attempt.restore(wanted, lambda line: _log.info("%s", line)))
        return wanted

    restored = restore()
    first >> restored
    return restored


def _create(context: Any, overrides_of: Any) -> str:
    unknown = set(context["dag_run"].conf or {}) - set(context["dag"].params)
    if unknown:
        raise ConfigError(
            sorted(unknown)[0],
            (context["dag_run"].conf)[sorted(unknown)[0]],
            "the form has no such field; use overrides",
        )
    profile, overrides, revision = overrides_of(context["params"])
    name = _name(context)
    record = worktree.create_run(ROOT, name, profile=profile, overrides=overrides, revision=revision)
    _log.info("run %s starts from commit %s (%s) on branch %s", name, record.commit, revision, record.branch)
    _log.info(
        "profile: %s; overrides: %s", record.profile or "the commit's own", dict(record.overrides) or "none"
    )
    if record.dirty:
        _log.warning(
            "the main checkout has %d uncommitted change(s), which are NOT in this run:\n%s",
            len(record.dirty),
            "\n".join(record.dirty[:20]),
        )
    return record.commit


def _finish_run() -> Any:
    @task(
        task_id="finish_run",
        **RETRIES,
        trigger_rule=TriggerRule.NONE_FAILED,
        doc_md=worktree.finish_run.__doc__,
    )
    def finish() -> str:
        context = get_current_context()
        name = _name(context)
        commit = _or_fail(lambda: worktree.finish_run(ROOT, name, f"run {name}: parameters and hashes"))
        _log.info("run/%s is commit %s: git checkout run/%s && dvc checkout", name, commit, name)
        return commit

    return finish()


def _name(context: Any) -> str:
    return worktree.run_name(context["ti"].dag_id, context["ti"].run_id)


def _or_fail(work: Callable[[], Any]) -> Any:
    """A person's mistake fails the task at once and leaves its one line where the REST API finds it; S3 or MLflow that is away is retried."""
    try:
        return work()
    except PipelineError as error:
        get_current_context()["ti"].xcom_push(ERROR_KEY, str(error))
        if error.retry:
            raise AirflowException(str(error)) from None
        raise AirflowFailException(str(error)) from None


__all__ = ["DAG_DEFAULTS", "ROOT", "create_run", "project", "restore_inputs"]
