"""Airflow's REST API, as far as the demo and the tests need it; standard library only.

The demo stack's "all admins" gives a token for the asking (loopback only); the production stack for a password.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pipeline_lib.errors import EXIT_BAD_INPUT, PipelineError

_JSON = {"Content-Type": "application/json"}
_TIMEOUT_S = 30.0
_PATIENCE_S = 180.0
"""How long a question is asked again while there is no answer: on two cores that train, Airflow can be slow."""

_DATABASE_PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Before each attempt at what may be said twice: SQLite refuses one of two that read, then write, at the same moment ("locked")."""


class AirflowRefused(PipelineError):
    """Airflow does not answer, or answers with an error; `status` is None where there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        if status in (400, 422):  # what was asked for is wrong, not the server
            self.exit_code = EXIT_BAD_INPUT
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Login:
    """An account of Airflow."""

    username: str
    password: str = field(repr=False)


class AirflowApi:
    """A client of one Airflow, as `login` says or, where everybody is administrator, as nobody in particular."""

    def __init__(self, address: str, login: Login | None = None) -> None:
        self.address = address
        self._login = login
        self._token: str | None = None

    def unhealthy_parts(self, *, triggerer: bool = False) -> tuple[str, ...]:
        """Return which of metadatabase, scheduler, dag_processor and, if asked, triggerer are not healthy yet."""
        health = f"{self.address}/api/v2/monitor/health"
        parts = self._send("GET", health, None, {})  # asks nobody who they are
        wanted = ("metadatabase", "scheduler", "dag_processor", *(("triggerer",) if triggerer else ()))
        return tuple(part for part in wanted if (parts.get(part) or {}).get("status") != "healthy")

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool; one that exists keeps the size somebody may have given it.

        A deferred stage counts, for it has its GPU as much as one that a worker waits for.
        """
        body = {"name": name, "slots": slots, "description": description, "include_deferred": True}
        try:
            found = self.get(f"/pools/{quote(name)}")
        except AirflowRefused as refusal:
            if refusal.status != 404:
                raise
            self.call("POST", "/pools", body)
        else:
            if not found["include_deferred"]:
                body["slots"] = found["slots"]
                self.call("PATCH", f"/pools/{quote(name)}?update_mask=include_deferred", body)

    def import_errors(self) -> dict[str, str]:
        """Return the traceback of every DAG file that could not be read, by file name."""
        return {
            error["filename"]: error["stack_trace"] for error in self.get("/importErrors")["import_errors"]
        }

    def has_dag(self, dag_id: str) -> bool:
        """True once the DAG processor has read the DAG."""
        try:
            self.get(f"/dags/{quote(dag_id)}")
        except AirflowRefused as refusal:
            if refusal.status == 404:
                return False
            raise
        return True

    def trigger(self, dag_id: str, form: Mapping[str, Any], run_id: str | None = None) -> str:
        """Start a run with these form fields and return its id.

        A named run is asked for again where Airflow's database fails: there can be only one of the name.
        """
        body: dict[str, Any] = {"conf": dict(form), "logical_date": None}
        if run_id:
            body["dag_run_id"] = run_id
        made = self.call("POST", f"/dags/{quote(dag_id)}/dagRuns", body, again=bool(run_id))
        return str(made["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a DAG run: `state` is queued, running, success or failed."""
        return dict(self.get(f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}"))

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, mapped ones included."""
        path = f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances?limit=200"
        return list(self.get(path)["task_instances"])

    def xcom(self, instance: Mapping[str, Any], key: str) -> Any:
        """Return what a task instance pushed under `key`, or None."""
        path = f"{_instance(instance)}/xcomEntries/{quote(key)}?map_index={instance['map_index']}&deserialize=true"
        try:
            return self.get(path)["value"]
        except AirflowRefused as refusal:
            if refusal.status == 404:
                return None
            raise

    def links(self, instance: Mapping[str, Any]) -> dict[str, str | None]:
        """Return the extra links (buttons) of a task instance: name -> address."""
        return dict(self.get(f"{_instance(instance)}/links?map_index={instance['map_index']}")["extra_links"])

    def get(self, path: str) -> Any:
        """GET below /api/v2."""
        return self.call("GET", path)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        below: str = "/api/v2",
        *,
        again: bool | None = None,
    ) -> Any:
        """Call the API and return the parsed answer.

        Args:
            again: Whether it may be said twice, and so is where Airflow's database fails. By default GET and PATCH may.

        Raises:
            AirflowRefused: No answer, or an error, with what Airflow says about it.
        """
        if self._token is None:
            self._token = self._new_token()
        headers = {"Authorization": f"Bearer {self._token}", **_JSON}
        if again is None:
            again = method in ("GET", "PATCH")
        for pause_s in _DATABASE_PAUSES_S if again else (0.0,):
            time.sleep(pause_s)
            try:
                return self._send(method, f"{self.address}{below}{path}", body, headers)
            except AirflowRefused as refusal:
                if refusal.status != 500:
                    raise
                refused = refusal
        raise refused

    def _new_token(self) -> str:
        where = f"{self.address}/auth/token"
        if self._login is None:
            answer = self._send("GET", where, None, {})
        else:
            body = {"username": self._login.username, "password": self._login.password}
            answer = self._send("POST", where, body, _JSON)
        return str(answer["access_token"])

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers=dict(headers), method=method)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                detail = _detail(error.read().decode(errors="replace"))
                raise AirflowRefused(
                    f"Airflow refused {method} {url}: {error.code} {detail}", error.code
                ) from None
            except OSError as error:
                if (
                    method != "GET"
                    or time.monotonic() > deadline
                    or isinstance(error, ConnectionRefusedError)
                ):
                    raise AirflowRefused(f"Airflow at {self.address} does not answer: {error}") from None


def _instance(instance: Mapping[str, Any]) -> str:
    dag, run, task = (quote(str(instance[key])) for key in ("dag_id", "dag_run_id", "task_id"))
    return f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}"


def _detail(text: str) -> str:
    try:
        detail = json.loads(text).get("detail", text)
    except (ValueError, AttributeError):
        return text[:500]
    return str(detail)
