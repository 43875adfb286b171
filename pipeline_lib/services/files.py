"""A read-only file server on loopback for what runs leave behind: reports and Data Docs.

`/runs/<run>/reports/...` and `/reports/...` of the main checkout; nothing else is served, and to no other name. A page that
is not there yet says so and looks again by itself: links are given out before the stage has run. With `R1_FILES_LOGIN`
(`name:password`) everything but the health check wants that log-in (HTTP basic authentication).
"""

from __future__ import annotations

import hmac
import os
import re
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline_lib.errors import ConfigError
from pipeline_lib.orchestration.links import basic
from pipeline_lib.services.settings import HOST

LOGIN = "R1_FILES_LOGIN"
"""Environment variable: `name:password`; unset, as in the demo stack, everybody who reaches the port reads."""

_SERVED = re.compile(r"^/(runs/[A-Za-z0-9._-]+/)?reports(/|$)")
_NOT_YET = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5">
<title>Not there yet</title><body style="font:16px system-ui;margin:4rem auto;max-width:40rem">
<h1>Not there yet</h1><p>The stage that writes this page has not finished. This page looks again every five seconds.</p>
"""


def _is_ours(host: str) -> bool:
    """Loopback, or the name in R1_FILES_URL. A page whose name was made to point here (DNS rebinding) has its own."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in {HOST, "localhost", urlsplit(os.environ.get("R1_FILES_URL", "")).hostname or HOST}


def _may_read(authorization: str) -> bool:
    """True where nobody has to log in, or this request has."""
    login = os.environ.get(LOGIN)
    if login is None:
        return True
    name, _, password = login.partition(":")
    return hmac.compare_digest(authorization.encode(), basic(name, password).encode())


class Handler(SimpleHTTPRequestHandler):
    """Serve the report folders of one checkout."""

    def do_GET(self) -> None:
        """Answer a health check, a file below a report folder, or a page that says to wait."""
        path = unquote(urlsplit(self.path).path)
        if not _is_ours(self.headers.get("Host", "")):
            self._text(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name")
        elif path == "/health":
            self._text(HTTPStatus.OK, "ok")
        elif not _may_read(self.headers.get("Authorization", "")):
            self._text(HTTPStatus.UNAUTHORIZED, "these reports want a log-in")
        elif not _SERVED.match(path) or ".." in path.split("/"):
            self._text(HTTPStatus.NOT_FOUND, "only reports are served here")
        elif path.endswith((".html", "/")) and not Path(self.translate_path(path)).exists():
            self._text(HTTPStatus.OK, _NOT_YET)
        else:
            super().do_GET()

    do_HEAD = do_GET

    def end_headers(self) -> None:
        """Never cached: the page of a run changes while it runs."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing about requests."""

    def _text(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", 'Basic realm="reports", charset="UTF-8"')
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(root: str, port: str) -> None:
    """Serve until stopped. Raises ConfigError for a log-in that names nobody or has no password."""
    login = os.environ.get(LOGIN)
    if login is not None and not all(login.partition(":")):
        raise ConfigError(LOGIN, "(not shown)", "not a log-in; write it as name:password")
    ThreadingHTTPServer((HOST, int(port)), partial(Handler, directory=root)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
