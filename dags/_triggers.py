"""What a deferred stage waits for: a coroutine in Airflow's triggerer that follows the stage's process.

The triggerer imports it as `dags._triggers`, from PYTHONPATH; nothing heavy, it shares one event loop with all others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from pipeline_lib.orchestration.detached import Attempt, Follower

POLL_S = 1.0

GONE = "gone"
"""Instead of a state: Airflow knows the task instance no more."""


def state_in_airflow(ti: Any) -> str | None:
    """Return the state the task has now, whichever attempt it is in; `GONE` where it was deleted.

    Works in a task's process and, off its event loop, in the triggerer.
    """
    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    state = next(iter(states.get(ti.run_id, {}).values()), GONE)
    return None if state is None else str(state)


class StageTrigger(BaseTrigger):
    """Pass a stage's output on to its task's log; fire one event, the outcome.

    Args:
        worktree, address, attempt: The process to follow (`detached.Attempt`).
        reader: Names this task's attempt, so that another triggerer goes on in the log where this one was killed.
    """

    def __init__(self, worktree: str, address: str, attempt: str, reader: str) -> None:
        super().__init__()
        self._arguments = {"worktree": worktree, "address": address, "attempt": attempt, "reader": reader}
        self._attempt = Attempt(Path(worktree), address, attempt)
        self._reader = reader

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path the triggerer imports, and the arguments."""
        return "dags._triggers.StageTrigger", self._arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the process to its end. Looking at files may block where they are on a network: so in a thread."""
        follower = await asyncio.to_thread(Follower, self._attempt, self._reader)
        while True:
            lines, outcome = await asyncio.to_thread(follower.poll)
            for line in lines:
                self.log.info("%s", line)
            if outcome is not None:
                yield TriggerEvent(asdict(outcome))
                return
            await asyncio.sleep(POLL_S if not lines else POLL_S / 4)

    async def on_kill(self) -> None:
        """Stop the stage: the task was marked failed or successful, cleared or deleted.

        Airflow 3.3 calls this also on a triggerer that was taken for dead, when another one has its triggers: the task
        is deferred as before then, and its stage goes on.
        """
        if await sync_to_async(state_in_airflow)(self.task_instance) == "deferred":
            return
        self.log.info("stopping %s: SIGTERM first, so that it can write a checkpoint", self._attempt.address)
        await asyncio.to_thread(self._attempt.ask_to_stop)
