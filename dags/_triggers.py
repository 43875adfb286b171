"""What a deferred stage waits for: a coroutine in Airflow's triggerer that follows the stage's process.

The triggerer imports it as `dags._triggers`, from PYTHONPATH; nothing heavy, it shares one event loop with all others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from pipeline_lib.orchestration.detached import Attempt, Follower

POLL_S = 1.0

SETTLED_S = 10.0
"""No event sooner. Airflow 3.3.2 takes a task for killed, and uses up a retry, if it is resumed before the scheduler has heard that the
worker which deferred it has ended ("reported ... finished with state success, but the task instance's state attribute is queued")."""


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
        self._follower: Follower | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the path the triggerer imports, and the arguments."""
        return "dags._triggers.StageTrigger", self._arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the process to its end. Looking at files may block where they are on a network: so in a thread."""
        self._follower = follower = await asyncio.to_thread(Follower, self._attempt, self._reader)
        settled = time.monotonic() + SETTLED_S
        while True:
            lines, outcome = await asyncio.to_thread(follower.poll)
            for line in lines:
                self.log.info("%s", line)
            if outcome is not None:
                await asyncio.sleep(max(0.0, settled - time.monotonic()))
                yield TriggerEvent(asdict(outcome))
                return
            await asyncio.sleep(POLL_S if not lines else POLL_S / 4)

    async def on_kill(self) -> None:
        """Stop the stage: the task was marked failed or successful, cleared or deleted.

        Airflow 3.3 calls this also in a triggerer that was taken for dead, when another one has its triggers: that one follows the
        stage by then. Airflow is not asked: in the triggerer that first loads an API server, which took longer than the 30 s it gives.
        """
        if self._follower is not None and await asyncio.to_thread(self._follower.superseded):
            return
        self.log.info("stopping %s: SIGTERM first, so that it can write a checkpoint", self._attempt.address)
        await asyncio.to_thread(self._attempt.ask_to_stop)
