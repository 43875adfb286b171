"""`make demo`: start the services, run the whole pipeline through Airflow, show it, and say how it came out.

The terminal shows one line a stage: what Airflow says about it, how long it took, whether it was
restored from cache, and the last line it printed while it runs. Without a terminal each change is a line.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipeline_lib.errors import PipelineError
from pipeline_lib.orchestration.detached import log_path
from pipeline_lib.orchestration.links import TrackingServer
from pipeline_lib.orchestration.worktree import run_name, worktree_path
from pipeline_lib.services import stack as stacks
from pipeline_lib.services.airflow_api import AirflowApi
from pipeline_lib.services.results import results_table

DAG = "deepseek_r1"
POLL_S = 2.0
PARSE_TIMEOUT_S = 180.0
_MARKS = {
    "success": ("✓", "green"),
    "failed": ("✗", "red"),
    "upstream_failed": ("·", "red"),
    "skipped": ("–", "dim"),
    "running": ("▶", "cyan"),
    "deferred": ("▶", "cyan"),
    "queued": ("…", "yellow"),
    "up_for_retry": ("↻", "yellow"),
    "awaiting_input": ("?", "magenta"),
}

_SILENT = ("waiting", "scheduled", "queued", "upstream_failed")
"""States without a line of their own where there is no terminal."""


@dataclass(frozen=True, slots=True)
class StageLine:
    """What the terminal shows of one task."""

    name: str
    state: str
    seconds: float
    note: str

    def text(self) -> Text:
        """Return the line, coloured by its state."""
        mark, style = _MARKS.get(self.state, ("·", "dim"))
        seconds = f"{self.seconds:6.0f} s" if self.seconds else " " * 8
        line = Text(f" {mark} {self.name:<34} {seconds}  ", style=style)
        line.append(self.note[:80], style="dim")
        return line


def demo(root: Path, *, profile: str | None, assignments: Sequence[str], stop: bool) -> int:
    """Run the demo and return its exit code: 0, or 1 when the run failed.

    Raises:
        ConfigError: An assignment that is none.
        PipelineError: A service did not start, or Airflow refused the form.
    """
    from pipeline_lib.params import parse_assignment

    overrides = dict(parse_assignment(text) for text in assignments)
    console = Console()
    console.print(f"[bold]DeepSeek-R1 on this machine[/] · checkout {root}")
    stack = stacks.up(root, say=lambda line: console.print(f"[dim]{line}[/]", highlight=False))
    try:
        api = AirflowApi(stack.airflow)
        _wait_for_dag(api, console)
        form = {"overrides": overrides, **({"profile": profile} if profile else {})}
        run_id = api.trigger(DAG, form)
        state = watch(api, root, run_id, console)
        code = _conclude(root, stack, api, run_id, state, console)
    finally:
        if stop:
            stacks.down(root, say=lambda line: console.print(f"[dim]services {line}[/]"))
    if not stop:
        console.print("Everything stays up to look at. Stop it with [bold]make down[/].")
    return code


def watch(api: AirflowApi, root: Path, run_id: str, console: Console) -> str:
    """Show a run until it ends and return its final state."""
    worktree = worktree_path(root, run_name(DAG, run_id))
    notes = _Notes(api, worktree)
    if not console.is_terminal:
        return _watch_plainly(api, run_id, notes, console)
    with Live(console=console, refresh_per_second=2, transient=False) as live:
        while True:
            run = api.run(DAG, run_id)
            lines = _lines(api.task_instances(DAG, run_id), notes)
            head = Text(f"run {run_id} · {run['state']} · {_since(run):.0f} s", style="bold")
            live.update(Group(head, *(line.text() for line in lines)))
            if run["state"] in ("success", "failed"):
                return str(run["state"])
            time.sleep(POLL_S)


def _watch_plainly(api: AirflowApi, run_id: str, notes: _Notes, console: Console) -> str:
    said: dict[str, str] = {}
    console.print(f"run {run_id}")
    while True:
        run = api.run(DAG, run_id)
        for line in _lines(api.task_instances(DAG, run_id), notes):
            if line.state not in _SILENT and said.get(line.name) != line.state:
                said[line.name] = line.state
                going = line.state in ("running", "deferred")
                note = "" if going else line.note
                seconds = "" if going else f" {line.seconds:.0f} s"
                console.print(
                    f"{line.state:<16} {line.name}{seconds} {note}".rstrip(), highlight=False, soft_wrap=True
                )
        if run["state"] in ("success", "failed"):
            return str(run["state"])
        time.sleep(POLL_S)


class _Notes:
    """The remark behind a task: how it was done, why it failed, or the last line it printed."""

    def __init__(self, api: AirflowApi, worktree: Path) -> None:
        self._api, self._worktree = api, worktree
        self._final: dict[tuple[str, int, str], str] = {}

    def of(self, instance: Mapping[str, Any]) -> str:
        state = instance["state"]
        if state in ("running", "deferred"):
            return self._last_line(instance)
        if state not in ("success", "failed", "up_for_retry"):
            return ""
        key = (instance["id"], instance["try_number"], state)
        if key not in self._final:
            value = self._api.xcom(instance, "return_value" if state == "success" else "error")
            self._final[key] = " ".join(value.split()) if isinstance(value, str) else ""
        return self._final[key]

    def _last_line(self, instance: Mapping[str, Any]) -> str:
        item = instance.get("rendered_map_index")
        address = f"{instance['task_id']}@{item}" if item else instance["task_id"]
        log = log_path(self._worktree, address)
        if not log.is_file():
            return ""
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1].rpartition("\r")[2] if lines else ""


def _lines(instances: Iterable[Mapping[str, Any]], notes: _Notes) -> list[StageLine]:
    """Return the lines of a run: finished tasks in the order they began, then those that wait."""

    def begun(instance: Mapping[str, Any]) -> tuple[bool, str]:
        return (instance["start_date"] is None, instance["start_date"] or "")

    lines = []
    for instance in sorted(instances, key=begun):
        item = instance.get("rendered_map_index")
        name = f"{instance['task_id']}@{item}" if item else instance["task_id"]
        seconds = instance["duration"] or (
            _since(instance) if instance["state"] in ("running", "deferred") else 0.0
        )
        lines.append(StageLine(name, instance["state"] or "waiting", seconds, notes.of(instance)))
    return lines


def _since(run: Mapping[str, Any]) -> float:
    if not run.get("start_date"):
        return 0.0
    end = datetime.fromisoformat(run["end_date"]) if run.get("end_date") else datetime.now(UTC)
    return (end - datetime.fromisoformat(run["start_date"])).total_seconds()


def _wait_for_dag(api: AirflowApi, console: Console) -> None:
    deadline = time.monotonic() + PARSE_TIMEOUT_S
    with console.status("Airflow reads the DAG files") if console.is_terminal else _Quiet():
        while not api.has_dag(DAG):
            errors = api.import_errors()
            if errors:
                raise PipelineError("\n".join(f"{file}: {trace}" for file, trace in errors.items()))
            if time.monotonic() > deadline:
                raise PipelineError(f"Airflow has not read dags/{DAG}.py after {PARSE_TIMEOUT_S:.0f} s")
            time.sleep(1.0)


class _Quiet:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _conclude(
    root: Path, stack: stacks.Stack, api: AirflowApi, run_id: str, state: str, console: Console
) -> int:
    name = run_name(DAG, run_id)
    worktree = worktree_path(root, name)
    console.print()
    if state != "success":
        _say_why(api, run_id, console)
    elif (worktree / "reports" / "results.json").is_file():
        console.print(results_table(worktree / "reports" / "results.json"))
    links = {
        "Airflow run": f"{stack.airflow}/dags/{DAG}/runs/{run_id}",
        "MLflow runs": TrackingServer(stack.mlflow, root).runs_page(name),
        "Report": f"{stack.files}/runs/{name}/reports/report.html",
    }
    if state == "success":
        links["As a commit"] = f"git checkout run/{name} && dvc checkout"
    for title, link in links.items():
        console.print(f"{title:<12} {link}", soft_wrap=True, highlight=False, markup=False)
    return 0 if state == "success" else 1


def _say_why(api: AirflowApi, run_id: str, console: Console) -> None:
    for instance in api.task_instances(DAG, run_id):
        if instance["state"] == "failed":
            item = f"@{instance['rendered_map_index']}" if instance.get("rendered_map_index") else ""
            name = f"{instance['task_id']}{item}"
            error = str(api.xcom(instance, "error") or "see its log in Airflow").removeprefix(f"{name}: ")
            console.print(
                Text(f"✗ {name} failed: ", style="bold red").append(error, style="default"), soft_wrap=True
            )
