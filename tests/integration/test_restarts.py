"""Whatever of Airflow is killed, a stage runs on, once: worker, scheduler, triggerer, API server; deferred and not.

The real services over the tiny pipeline, with two workers; the scheduler looks for orphaned tasks every five seconds, not minutes.
The stage `train_r1_zero` runs until its worktree has a file `.run/end` and notes each copy of itself in `.run/copies`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import psutil
import pytest

from pipeline_lib.orchestration import processes
from pipeline_lib.orchestration.form import FIELDS
from pipeline_lib.orchestration.graph import load_yaml, look_up
from pipeline_lib.services import settings
from pipeline_lib.services import stack as stacks
from pipeline_lib.services.airflow_api import AirflowApi, AirflowRefused
from tests.integration.conftest import Services, build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
DAG, STAGE = "deepseek_r1", "train_r1_zero"
PATIENCE_S = 600.0
QUICK = {
    "AIRFLOW__CORE__PARALLELISM": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    # A worker that says nothing is missed after half a minute, not five.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
}
LONG = {"r1_zero_steps": 100_000}


@dataclass
class _Airflow(Services):
    """Services whose processes are killed and started again."""

    def kill(self, name: str, *, group: bool = False) -> None:
        """kill -9 one of them, or it and the workers it has."""
        pid = self._pids()[name]
        os.killpg(pid, signal.SIGKILL) if group else os.kill(pid, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """SIGTERM, and wait until it is gone."""
        process = psutil.Process(self._pids()[name])
        process.terminate()
        self.until(
            lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, f"{name} has ended"
        )

    def start(self, name: str, **env: str) -> None:
        """Start it again, on its port."""
        (service,) = [s for s in settings.services(self.root, self.stack.ports, defer=True) if s.name == name]
        environment = {**settings.environment(self.root, self.stack.ports), **env}
        started = stacks._start(self.root, service, environment)
        # Beside the killed one: `down` then stops both sessions, also the idle workers that a killed scheduler left.
        self.stack = replace(self.stack, processes=(*self.stack.processes, started))
        stacks._save(self.root, self.stack)

    def _pids(self) -> dict[str, int]:
        return {p.name: p.pid for p in self.stack.processes}

    def state(self, run: str) -> str | None:
        return self.instances(run).get(STAGE, {}).get("state")

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited too long until {what}"
            time.sleep(0.5)

    def until_runs(self, run: str, state: str) -> int:
        """Wait until the stage computes and its task is in `state`; return the one copy's pid."""
        self.until(
            lambda: self.state(run) == state and self.copies(run), f"{run} is {state}: {self.state(run)}"
        )
        (pid,) = self.copies(run)
        return pid

    def copies(self, run: str) -> list[int]:
        file = self.worktree(run) / ".run" / "copies"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

    def end(self, run: str) -> None:
        (self.worktree(run) / ".run" / "end").touch()

    def alive(self, run: str) -> set[int]:
        return processes.members((), f"{processes.STAGE_MARK}={self.worktree(run)}:{STAGE}")

    def log(self, run: str) -> list[str]:
        """What the task's log says in its latest attempt."""
        attempt = self.instances(run)[STAGE]["try_number"]
        path = (
            f"/dags/{DAG}/dagRuns/{run}/taskInstances/{STAGE}/logs/{attempt}?map_index=-1&full_content=true"
        )
        return [str(line["event"]) for line in self.api.get(path)["content"]]

    def require_whole_log(self, run: str) -> None:
        file = self.worktree(run) / ".run" / "log" / f"{STAGE}.log"
        steps = [line for line in file.read_text().splitlines() if line.startswith("step ")]
        assert len(steps) > 20
        assert set(steps) <= set(self.log(run))

    def mark(self, run: str, state: str) -> None:
        path = f"/dags/{DAG}/dagRuns/{run}/taskInstances/{STAGE}"
        self.api.call("PATCH", path, {"new_state": state})

    def clear(self, run: str, *tasks: str) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": run,
            "only_failed": False,
            "reset_dag_runs": True,
            "task_ids": list(tasks),
        }
        self.api.call("POST", f"/dags/{DAG}/clearTaskInstances", body)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Airflow]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.DEFERRABLE, "True")
        patch.setattr(stacks, "PREFERRED_PORTS", dict.fromkeys(stacks.PREFERRED_PORTS, 0))  # any free one
        usual = settings.environment
        patch.setattr(settings, "environment", lambda root, ports: {**usual(root, ports), **QUICK})
        root = build(tmp_path_factory.mktemp("restarts") / "project")
        stack = stacks.up(root)
        try:
            services = _Airflow(root, stack, AirflowApi(stack.airflow))
            services.until(lambda: services.api.has_dag(DAG), "the DAG is read")
            pool = {"name": "gpu", "slots": 2, "description": "", "include_deferred": True}
            services.api.call("PATCH", "/pools/gpu?update_mask=slots", pool)
            yield services
        finally:
            stacks.down(root)
    # Airflow's processes rename themselves and lose their mark with it: their sessions tell.
    assert not processes.members(services.stack.groups(), f"{processes.SERVICES_MARK}={root}")


@pytest.fixture(scope="module")
def deferred(airflow: _Airflow) -> dict[str, int]:
    """Two runs of the same parameters whose stage computes, with a worker each and no worker held. Run -> pid."""
    for run in ("one", "two"):
        airflow.api.trigger(DAG, LONG, run)
    return {run: airflow.until_runs(run, "deferred") for run in ("one", "two")}


def test_a_deferred_stage_holds_its_pool_slot_and_no_worker(airflow, deferred):
    airflow.api.trigger(DAG, {"r1_zero_steps": 99_999}, "three")
    airflow.until(lambda: airflow.state("three") == "scheduled", "the third stage waits")
    pool = airflow.api.get("/pools/gpu")
    assert (pool["deferred_slots"], pool["running_slots"], pool["open_slots"]) == (2, 0, 0)
    assert {name: i["state"] for name, i in airflow.instances("three").items()}[
        "validate_problems"
    ] == "success"


def _log_goes_on(airflow: _Airflow, run: str) -> None:
    airflow.until(lambda: not airflow.api.unhealthy_parts(triggerer=True), "Airflow is well")
    before = airflow.log(run)[-1]
    airflow.until(lambda: airflow.log(run)[-1] != before, "the log goes on")


def test_triggerer_and_scheduler_are_restarted_in_order_and_a_deferred_stage_goes_on(airflow, deferred):
    """As systemd does it: SIGTERM, which their own shutdown answers."""
    for name in ("airflow-triggerer", "airflow-scheduler"):
        airflow.stop(name)
        airflow.start(name)
    _log_goes_on(airflow, "one")
    assert airflow.copies("one") == [deferred["one"]]
    assert deferred["one"] in airflow.alive("one")
    assert airflow.instances("one")[STAGE]["try_number"] == 1


def test_all_of_airflow_is_killed_and_a_deferred_stage_goes_on(airflow, deferred):
    for name in ("airflow-triggerer", "airflow-scheduler", "airflow-api"):
        airflow.kill(name, group=True)
    for name in ("airflow-api", "airflow-scheduler", "airflow-triggerer"):
        airflow.start(name)
    airflow.until(lambda: stacks._answers(f"{airflow.stack.airflow}/api/v2/version"), "the API answers")
    _log_goes_on(airflow, "one")
    assert airflow.copies("one") == [deferred["one"]]
    assert deferred["one"] in airflow.alive("one")
    airflow.end("one")
    airflow.until(lambda: airflow.state("one") == "success", "the stage is done")
    assert airflow.instances("one")[STAGE]["try_number"] == 1
    assert airflow.api.xcom(airflow.instances("one")[STAGE], "return_value") == "computed"
    airflow.require_whole_log("one")
    assert "/runs/" in airflow.api.links(airflow.instances("one")[STAGE])["MLflow run"]


def test_mark_failed_stops_a_deferred_stage(airflow, deferred):
    assert airflow.alive("two")
    airflow.mark("two", "failed")
    airflow.until(lambda: not airflow.alive("two"), "nothing of the stage is left")
    assert airflow.copies("two") == [deferred["two"]]


def test_failing_and_deleting_the_run_stops_a_deferred_stage(airflow, deferred):
    airflow.until_runs("three", "deferred")
    taken_up = lambda: any(line.startswith("trigger ") for line in airflow.log("three"))  # noqa: E731
    airflow.until(
        taken_up, "the triggerer follows it"
    )  # before, nobody hears of it, and the stage's hour has to end
    with pytest.raises(AirflowRefused, match="cannot be deleted in running state"):
        airflow.api.call("DELETE", f"/dags/{DAG}/dagRuns/three")
    airflow.api.call("PATCH", f"/dags/{DAG}/dagRuns/three", {"state": "failed"})
    airflow.until(lambda: not airflow.alive("three"), "nothing of the stage is left")
    airflow.api.call("DELETE", f"/dags/{DAG}/dagRuns/three")


def test_cleared_stages_are_restored_or_unchanged_and_not_computed_again(airflow, deferred):
    airflow.clear("two", STAGE)  # computed by run one meanwhile, which has the same parameters
    airflow.until(lambda: airflow.state("two") == "success", "the stage is there")
    assert airflow.api.xcom(airflow.instances("two")[STAGE], "return_value") == "restored from cache"
    stages = ("prepare_problems", "validate_problems", "prepare_base_model", STAGE)
    airflow.clear("one", *stages)
    again = lambda: [airflow.instances("one")[stage] for stage in stages]  # noqa: E731
    airflow.until(
        lambda: {(i["state"], i["try_number"]) for i in again()} == {("success", 2)}, "all ran again"
    )
    assert {airflow.api.xcom(i, "return_value") for i in again()} == {"unchanged"}
    assert airflow.copies("one") == [deferred["one"]]
    assert airflow.copies("two") == [deferred["two"]]
    for run in ("one", "two"):  # what comes after is not the matter here
        airflow.api.call("PATCH", f"/dags/{DAG}/dagRuns/{run}", {"state": "failed"})


@pytest.fixture(scope="module")
def waiting(airflow: _Airflow) -> _Airflow:
    """The same services, whose workers wait for their stages from now on."""
    airflow.kill("airflow-scheduler", group=True)
    airflow.start("airflow-scheduler", **{settings.DEFERRABLE: "False"})
    return airflow


def test_two_operators_trigger_the_same_run_at_the_same_moment(waiting):
    def trigger(_: int) -> int | None:
        try:
            waiting.api.trigger(DAG, {"r1_zero_steps": 88_888}, "four")
        except AirflowRefused as refusal:
            return refusal.status
        return None

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(trigger, range(4)))
    assert sorted(answers, key=str) == [409, 409, 409, None]


def test_worker_and_scheduler_are_killed_and_a_stage_that_is_waited_for_goes_on(waiting):
    pid = waiting.until_runs("four", "running")
    os.kill(waiting.instances("four")[STAGE]["pid"], signal.SIGKILL)
    waiting.until(lambda: waiting.instances("four")[STAGE]["try_number"] == 2, "there is a second attempt")
    waiting.until(lambda: waiting.state("four") == "running", "it runs")
    waiting.kill("airflow-scheduler")  # its workers live; the next scheduler takes their tasks away from them
    waiting.start("airflow-scheduler", **{settings.DEFERRABLE: "False"})
    waiting.until(lambda: waiting.instances("four")[STAGE]["try_number"] == 3, "there is a third attempt")
    waiting.until(lambda: waiting.state("four") == "running", "it runs")
    time.sleep(10)  # two heartbeats: the second attempt's worker has been told to end
    assert waiting.copies("four") == [pid]
    assert pid in waiting.alive("four")
    waiting.end("four")
    waiting.until(lambda: waiting.state("four") == "success", "the stage is done")
    assert waiting.copies("four") == [pid]
    assert waiting.api.xcom(waiting.instances("four")[STAGE], "return_value") == "computed"
    waiting.require_whole_log("four")


def test_clear_and_mark_failed_stop_a_stage_that_is_waited_for(waiting):
    waiting.api.trigger(DAG, {"r1_zero_steps": 77_777}, "five")
    pid = waiting.until_runs("five", "running")
    waiting.clear("five", STAGE)
    waiting.until(lambda: len(waiting.copies("five")) == 2, "it is computed again")
    assert pid not in waiting.alive("five")
    waiting.until(lambda: waiting.state("five") == "running", "it runs")
    waiting.mark("five", "failed")
    waiting.until(lambda: not waiting.alive("five"), "nothing of the stage is left")
    assert len(waiting.copies("five")) == 2


def test_the_worker_above_the_waiting_process_is_killed_and_the_stage_goes_on(waiting):
    """What Airflow asks about the task is gone; the scheduler misses its heartbeats."""
    waiting.api.trigger(DAG, {"r1_zero_steps": 66_666}, "six")
    pid = waiting.until_runs("six", "running")
    os.kill(psutil.Process(waiting.instances("six")[STAGE]["pid"]).ppid(), signal.SIGKILL)
    waiting.until(lambda: waiting.instances("six")[STAGE]["try_number"] == 2, "there is a second attempt")
    waiting.until(lambda: waiting.state("six") == "running", "it runs")
    assert waiting.copies("six") == [pid]
    assert pid in waiting.alive("six")
    waiting.end("six")
    waiting.until(lambda: waiting.state("six") == "success", "the stage is done")
    assert waiting.copies("six") == [pid]
    waiting.require_whole_log("six")


def test_the_api_server_is_away_for_longer_than_a_worker_waits(waiting):
    """The worker is told to end by its own heartbeat and cannot ask why: its stage stops, and the retry computes it, one at a time."""
    waiting.api.trigger(DAG, {"r1_zero_steps": 55_555}, "seven")
    pid = waiting.until_runs("seven", "running")
    waiting.kill("airflow-api", group=True)
    waiting.until(lambda: pid not in waiting.alive("seven"), "the stage has stopped")
    waiting.start("airflow-api")
    waiting.until(lambda: stacks._answers(f"{waiting.stack.airflow}/api/v2/version"), "the API answers")
    waiting.until(lambda: len(waiting.copies("seven")) == 2, "it is computed again")
    waiting.until(lambda: waiting.state("seven") == "running", "it runs")
    waiting.end("seven")
    waiting.until(lambda: waiting.state("seven") == "success", "the stage is done")
    assert len(waiting.copies("seven")) == 2


def test_two_operators_trigger_the_same_run_with_different_forms(waiting):
    """One of them wins, and wholly: the run's parameters are its form's, and no half of the other's."""
    for attempt in range(3):
        run, start = f"eight-{attempt}", Barrier(2)
        forms = [{"seed": 101, "r1_zero_steps": 4}, {"seed": 202, "group_size": 6}]

        def trigger(form: dict[str, int], run: str = run, start: Barrier = start) -> int | None:
            start.wait()
            try:
                waiting.api.trigger(DAG, form, run)
            except AirflowRefused as refusal:
                return refusal.status
            return None

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(trigger, forms))
        assert sorted(answers, key=str) == [409, None]
        winner, loser = (forms[answers.index(answer)] for answer in (None, 409))
        conf = waiting.api.run(DAG, run)["conf"]
        assert {name: conf[name] for name in winner} == winner

        waiting.until(
            lambda run=run: waiting.instances(run).get("create_run", {}).get("state") == "success",
            f"{run} is there",
        )
        usual, params = (load_yaml(root / "params.yaml") for root in (waiting.root, waiting.worktree(run)))
        for field in {*winner, *loser}:
            place = FIELDS[field]
            assert look_up(params, place) == winner.get(field, look_up(usual, place)), field
        waiting.api.call("PATCH", f"/dags/{DAG}/dagRuns/{run}", {"state": "failed"})
