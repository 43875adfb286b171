"""Which failures of S3 a later attempt may not meet: real boto3 against a server that answers what a test tells it to.

What a real server does is in `tests/integration/test_s3.py`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline_lib.errors import StorageAway, StorageError
from pipeline_lib.orchestration.patience import for_each
from pipeline_lib.storage import s3


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


@dataclass
class Server:
    """Answers every request with what `answer` returns for its method and path."""

    answer: Callable[[str, str], Answer] = lambda method, path: Answer(200)
    requests: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            told.requests.append(f"{self.command} {self.path}")
            answer = told.answer(self.command, self.path)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_HEAD = do_PUT = _any

        def log_message(self, *arguments: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = running.server_address[1]
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield told
    running.shutdown()
    running.server_close()


@pytest.fixture
def keys(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment of a user with static keys for the server, and no other settings."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", s3.KEYS_FROM):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "")
    monkeypatch.delenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS")
    s3._client_for.cache_clear()
    return monkeypatch


def test_too_many_requests_pass(server: Server, keys: pytest.MonkeyPatch) -> None:
    server.answer = lambda method, path: refusal(429, "TooManyRequests")
    with pytest.raises(StorageAway, match="cannot serve it now"):
        s3.read("s3://bucket/key")
    with pytest.raises(StorageAway, match=r"cannot serve it now \(429, 429\)"):
        s3.size_of("s3://bucket/key")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"other bytes", {"x-amz-checksum-crc32": "AAAAAA=="}),
        Answer(200, b"a part", {"Content-Length": "100"}),
    ],
    ids=["damaged", "in part"],
)
def test_what_arrives_damaged_or_in_part_is_asked_for_again(
    server: Server, keys: pytest.MonkeyPatch, answer: Answer
) -> None:
    server.answer = lambda method, path: answer
    with pytest.raises(StorageAway):
        s3.read("s3://bucket/key")


def test_botocores_own_count_of_what_is_missing_passes() -> None:
    from botocore.exceptions import IncompleteReadError

    with pytest.raises(StorageAway, match="damaged or in part"), s3._one_line_errors(s3.S3Uri("b", "k")):
        raise IncompleteReadError(actual_bytes=1, expected_bytes=2)


def test_keys_that_cannot_be_renewed_now_are_waited_for(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`credential_process` of a profile, as it fails when its own server is away."""
    keys.delenv("AWS_ACCESS_KEY_ID")
    keys.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\ncredential_process = false\n")
    with pytest.raises(StorageAway, match="cannot be renewed now"):
        s3.read("s3://bucket/key")


def test_a_lost_answer_of_the_metadata_service_is_asked_for_again(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys.delenv("AWS_ACCESS_KEY_ID")
    keys.delenv("AWS_SECRET_ACCESS_KEY")
    keys.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.address)
    keys.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    role = {
        "Code": "Success",
        "AccessKeyId": "a",
        "SecretAccessKey": "b",
        "Token": "c",
        "Expiration": f"{datetime.now(UTC) + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}",
    }
    lost = [Answer(500), Answer(503)]

    def answer(method: str, path: str) -> Answer:
        if path.endswith("/api/token"):
            return Answer(200, b"token")
        if path.endswith("/security-credentials/"):
            return lost.pop() if lost else Answer(200, b"role")
        if path.endswith("/security-credentials/role"):
            return Answer(200, json.dumps(role).encode())
        return Answer(200, b"content")

    server.answer = answer
    assert s3.read("s3://bucket/key") == b"content"
    assert lost == []


def test_an_expired_session_token_is_another_attempts_and_not_waited_for(
    server: Server, keys: pytest.MonkeyPatch
) -> None:
    """The token is the one that the attempt began with; the connection may have a new one by now."""
    keys.setenv("AWS_SESSION_TOKEN", "an-old-token")
    keys.setenv(s3.KEYS_FROM, "the Airflow connection x")
    server.answer = lambda method, path: Answer(400) if method == "HEAD" else refusal(400, "ExpiredToken")
    lines: list[str] = []
    for act in (s3.read, s3.size_of):
        with pytest.raises(StorageError, match=r"expired\. Renew it in the Airflow connection x") as caught:
            for_each(["s3://bucket/key"], act, patience=60.0, tell=lines.append)
        assert caught.value.exit_code == 1
        assert "an-old-token" not in str(caught.value)
    assert lines == []
    assert server.requests.count("GET /bucket/key") == 1


@pytest.mark.parametrize(("status", "code"), [(403, "InvalidAccessKeyId"), (403, "AccessDenied")])
def test_static_keys_that_are_refused_are_final(
    server: Server, keys: pytest.MonkeyPatch, status: int, code: str
) -> None:
    server.answer = lambda method, path: refusal(status, code)
    for act in (s3.read, s3.size_of):
        with pytest.raises(StorageError, match="refused the credentials") as caught:
            act("s3://bucket/key")
        assert caught.value.exit_code == 2
