"""What the client of Airflow's REST API makes of its answers; Airflow itself is in tests/integration."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline_lib.services import airflow_api
from pipeline_lib.services.airflow_api import AirflowApi, AirflowRefused


class _Answers(BaseHTTPRequestHandler):
    """Answers with the server's list of codes, one after the other; 200 with the body it was sent."""

    server: _Server

    def do_GET(self) -> None:  # the token
        self._send(200, {"access_token": "t"})

    def do_PATCH(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        code = self.server.codes.pop(0)
        self._send(code, body if code == 200 else {"detail": {"reason": "Database error"}})

    def _send(self, code: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class _Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.codes: list[int] = []
        self.asked: list[dict[str, object]] = []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setattr(airflow_api, "_DATABASE_PAUSES_S", (0.0, 0.01, 0.01))
    with _Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def _api(server: _Server) -> AirflowApi:
    return AirflowApi(f"http://127.0.0.1:{server.server_port}")


def test_a_named_run_is_asked_for_again_where_the_database_fails(server):
    server.codes = [500, 500, 200]
    assert _api(server).trigger("d", {"a": 1}, "one") == "one"
    assert server.asked == [{"conf": {"a": 1}, "logical_date": None, "dag_run_id": "one"}] * 3


@pytest.mark.parametrize(("codes", "status"), [([500, 409], 409), ([500, 500, 500], 500), ([422], 422)])
def test_a_refusal_stays_one(server, codes, status):
    server.codes = list(codes)
    with pytest.raises(AirflowRefused) as refusal:
        _api(server).trigger("d", {}, "one")
    assert refusal.value.status == status
    assert len(server.asked) == len(codes)


def test_what_may_be_said_twice_is_where_the_database_fails(server):
    server.codes = [500, 500, 200]
    assert _api(server).call("PATCH", "/dags/d", {"state": "failed"}) == {"state": "failed"}
    assert server.asked == [{"state": "failed"}] * 3
    server.codes = [500, 200]
    with pytest.raises(AirflowRefused, match="500"):
        _api(server).call("POST", "/pools", {"name": "one"})
    assert server.codes == [200], "a second pool would be another"


def test_a_run_without_a_name_is_asked_for_once(server):
    """It may have been made before the answer went wrong, and a second one would be another run."""
    server.codes = [500, 200]
    with pytest.raises(AirflowRefused, match="500"):
        _api(server).trigger("d", {})
    assert len(server.asked) == 1
