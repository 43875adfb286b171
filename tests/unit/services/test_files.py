"""The file server: reports yes, everything else no."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.orchestration.links import basic
from pipeline_lib.services import files
from pipeline_lib.services.files import LOGIN, Handler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    for folder in ("runs/one/reports/data_docs/validate_problems", "runs/one/.run", "reports"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/one/reports/report.html").write_text("the report")
    (tmp_path / "runs/one/params.yaml").write_text("secret: 1")
    (tmp_path / "secret.txt").write_text("secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def get(address: str | urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_report_is_served(server):
    assert get(f"{server}/runs/one/reports/report.html") == (200, b"the report")
    assert get(f"{server}/health") == (200, b"ok")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        (("reader", "s3cret:ü"), 200),
        (("reader", "s3cret"), 401),
        (("", ""), 401),
        (("other", "s3cret:ü"), 401),
    ],
)
def test_with_a_login_nobody_reads_without_it(server, monkeypatch, given, status):
    monkeypatch.setenv(LOGIN, "reader:s3cret:ü")
    request = urllib.request.Request(f"{server}/runs/one/reports/report.html")
    if given:
        request.add_header("Authorization", basic(*given))
    assert get(request)[0] == status
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server}/reports/", timeout=5)
    assert refused.value.headers["WWW-Authenticate"] == 'Basic realm="reports", charset="UTF-8"'
    assert get(f"{server}/health") == (200, b"ok"), "who watches the service needs no password"
    assert get(f"{server}/runs/one/reports/not-yet.html")[0] == 401
    assert get(f"{server}/secret.txt")[0] == 401


@pytest.mark.parametrize("login", ["", "reader", "reader:", ":password"])
def test_a_login_without_a_name_or_a_password_stops_it_at_its_start(monkeypatch, login):
    monkeypatch.setenv(LOGIN, login)
    with pytest.raises(ConfigError, match="write it as name:password"):
        files.main("/nowhere", "0")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8800", 200),
        ("reports.example.org", 200),
        ("evil.example:8800", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example/@localhost", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_it_answers_to_its_own_names_only(server, monkeypatch, host, status):
    """DNS rebinding: a browser sends the name of the page that it shows."""
    monkeypatch.setenv("R1_FILES_URL", "https://reports.example.org")
    with socket.create_connection(("127.0.0.1", int(server.rpartition(":")[2])), timeout=5) as line:
        line.sendall(f"GET /health HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        assert int(line.makefile("rb").readline().split()[1]) == status


def test_the_gates_are_listed(server):
    status, body = get(f"{server}/runs/one/reports/data_docs/")
    assert status == 200
    assert b"validate_problems" in body


@pytest.mark.parametrize("path", ["one/reports/data_docs/validate_x/index.html", "two/reports/data_docs/"])
def test_a_page_that_is_not_there_yet_says_so_and_looks_again(server, path):
    status, body = get(f"{server}/runs/{path}")
    assert status == 200
    assert b"Not there yet" in body
    assert b'http-equiv="refresh"' in body


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/secret.txt",
        "/runs/one/params.yaml",
        "/reports/../secret.txt",
        "/reports/%2e%2e/secret.txt",
        "/runs/one/reports/../../../secret.txt",
        "/runs/../secret.txt/reports",
        "/runs/one/reports/none.json",
    ],
)
def test_nothing_else_is(server, path):
    status, body = get(server + path)
    assert status == 404
    assert b"secret: 1" not in body
    assert body != b"secret"
