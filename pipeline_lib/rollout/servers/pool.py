"""Which servers serve: starting them, giving them weights, replacing those that are lost.

A place is where a server belongs; its number never changes, the process or the address in it may. A server serves only
after it has confirmed the version of the weights sent to it. One that is lost (dead, silent, wrong answers) is killed and
started anew in its place if it is ours, and asked again at the next change of weights if somebody else started it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from pipeline_lib.errors import PipelineError
from pipeline_lib.params import ServersParams
from pipeline_lib.rollout.servers.client import ServerClient, ServerFailed
from pipeline_lib.rollout.servers.local import LocalServer

POLL_SECONDS = 0.2
ASK_SECONDS = 5.0
"""How long a server may take to say which weights it holds."""
State = Literal["starting", "ready", "lost"]


class NoServersLeft(PipelineError):
    """Every rollout server is lost and may not be replaced."""


@dataclass(slots=True)
class Place:
    """One place: its number over all ranks, and who serves there now."""

    number: int
    client: ServerClient
    process: LocalServer | None = None
    """None: somebody else started it."""
    state: State = "starting"
    since: float = field(default_factory=time.monotonic)
    replaced: int = 0
    why: str = ""
    """Why it was lost."""


class ServerPool:
    """The servers of one trainer process. Not for use by several threads."""

    def __init__(
        self, params: ServersParams, numbers: Sequence[int], start: Callable[[int], LocalServer]
    ) -> None:
        """`start(number)` starts a local server; unused when addresses are given."""
        self._params, self._start = params, start
        self._weights: tuple[list[str], int] | None = None
        self.lost = 0
        """Servers lost since the job's start."""
        self.places = [self._place(number) for number in numbers]

    def load_weights(self, paths: list[str], version: int) -> None:
        """Send weights to every server, all at once. At the first call all must take them; later those that are there.

        Raises the first ServerFailed of a start, NoServersLeft when none took them, WeightVersionMismatch as clients do.
        """
        first, self._weights = self._weights is None, (paths, version)
        if first:
            for place in self.places:
                self._await_start(place)
        else:
            for place in self.places:
                if place.state == "lost" and place.process is None and self._answers(place):
                    place.state = "starting"  # somebody has started it again
        self._admit(
            [
                place
                for place in self.places
                if place.state == "ready" or (place.state == "starting" and self._answers(place))
            ]
        )
        if first and (lost := [place for place in self.places if place.state != "ready"]):
            raise ServerFailed(f"rollout server {lost[0].number} did not start: {lost[0].why}")
        self.ready()

    def ready(self) -> list[Place]:
        """The servers that hold the present weights; waits for a replacement when there is no other. NoServersLeft."""
        while True:
            for place in self.places:
                if place.state == "starting":
                    self._watch(place)
            self._admit(
                [place for place in self.places if place.state == "starting" and self._answers(place)]
            )
            found = [place for place in self.places if place.state == "ready"]
            if found:
                return found
            if all(place.state == "lost" for place in self.places):
                reasons = "; ".join(f"{place.client.address}: {place.why}" for place in self.places)
                remedy = (
                    "start them again"
                    if self._params.addresses
                    else "see the servers' lines in the job's log"
                )
                raise NoServersLeft(
                    f"no rollout server is left ({reasons}); {remedy}, then start the job again: it goes on from its "
                    "last checkpoint"
                )
            time.sleep(POLL_SECONDS)

    def lose(self, place: Place, why: str) -> None:
        """`place`'s server is lost; another is started in its place if that is ours to do."""
        self.lost += 1
        place.why = why
        place.client.hang_up()
        print(f"warning: rollout server {place.number}: {why}", file=sys.stderr, flush=True)
        if place.process is not None:
            place.process.kill()
            if place.replaced < self._params.replacements:
                new = self._place(place.number)
                place.client, place.process, place.state, place.since = (
                    new.client,
                    new.process,
                    "starting",
                    new.since,
                )
                place.replaced += 1
                return
        place.state = "lost"

    def close(self) -> None:
        """Stop the servers that are ours."""
        for place in self.places:
            place.client.hang_up()
            if place.process is not None:
                place.process.kill()

    def _place(self, number: int) -> Place:
        if self._params.addresses:
            client = ServerClient(self._params.addresses[number], os.environ.get("VLLM_API_KEY", ""))
            return Place(number, client)
        process = self._start(number)
        return Place(number, ServerClient(process.address, process.key), process)

    def _await_start(self, place: Place) -> None:
        """Wait until it answers or has failed; a first start is not tried twice: what is wrong is wrong again."""
        while not self._answers(place):
            if why := self._overdue(place):
                raise ServerFailed(
                    f"rollout server {place.number} ({place.client.address}) did not start: {why}"
                )
            time.sleep(POLL_SECONDS)

    def _watch(self, place: Place) -> None:
        if not self._answers(place) and (why := self._overdue(place)):
            self.lose(place, why)

    def _overdue(self, place: Place) -> str:
        """Why a starting server will not come any more; empty while it may."""
        if place.process is not None and place.process.ended():
            return "it ended while starting; the job's log has its last words"
        if time.monotonic() - place.since > self._params.start_seconds:
            return f"it did not answer within {self._params.start_seconds:g} s (engine.servers.start_seconds)"
        return ""

    def _answers(self, place: Place) -> bool:
        try:
            place.client.version(ASK_SECONDS)
        except ServerFailed:
            return False
        return True

    def _admit(self, places: Sequence[Place]) -> None:
        """Send the present weights to `places` at once; those that confirm them are ready."""
        if self._weights is None or not places:
            return
        paths, version = self._weights

        def send(place: Place) -> ServerFailed | None:
            try:
                place.client.load_weights(paths, version, self._params.update_seconds)
            except ServerFailed as error:
                return error
            return None

        with ThreadPoolExecutor(len(places), thread_name_prefix="weights") as threads:
            failures = list(threads.map(send, places))
        for place, failure in zip(places, failures, strict=True):
            if failure is None:
                place.state = "ready"
            else:
                self.lose(place, str(failure))
