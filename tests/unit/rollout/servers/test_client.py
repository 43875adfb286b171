"""What the client makes of servers that misbehave: real sockets, wrong answers. Right ones: tests/integration."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

import pytest

from pipeline_lib.errors import WeightVersionMismatch
from pipeline_lib.rollout.servers.client import ServerClient, ServerFailed
from pipeline_lib.types import SamplingParams

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(line: object) -> bytes:
    data = json.dumps(line).encode() + b"\n"
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _group(prompt: int, finish: str = "stop") -> bytes:
    sample = {"token_ids": [1], "logprobs": [-0.5], "finish_reason": finish, "versions": ["0"]}
    return _chunk({"prompt": prompt, "samples": [sample]})


@pytest.fixture
def answering() -> Callable[[bytes, bool], ServerClient]:
    """Start a server that answers one request with given bytes, then hangs up or stays silent."""
    listeners: list[socket.socket] = []
    kept: list[socket.socket] = []

    def start(answer: bytes, silent: bool = False) -> ServerClient:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            connected, _ = listener.accept()
            connected.recv(65536)
            connected.sendall(answer)
            kept.append(connected)
            if not silent:
                connected.close()

        threading.Thread(target=serve, daemon=True).start()
        return ServerClient(f"127.0.0.1:{listener.getsockname()[1]}")

    yield start
    for one in (*listeners, *kept):
        one.close()


def _generate(client: ServerClient, prompts: int = 2, seconds: float = 5.0):
    return client.generate(
        [[1]] * prompts,
        SamplingParams(n=1, max_new_tokens=4),
        stop_token_ids=[1],
        seed=1,
        version=0,
        silence_seconds=seconds,
    )


def test_groups_come_as_they_end(answering) -> None:
    answer = _generate(answering(HEAD + _group(1) + _group(0), True))
    assert [index for index, _ in answer] == [1, 0]


@pytest.mark.parametrize(
    ("answer", "silent", "why"),
    [
        (HEAD + _group(0), True, "said nothing for 1 s"),
        (HEAD + _group(0), False, r"(ended its answer with 1 groups missing|IncompleteRead|ConnectionReset)"),
        (HEAD + _group(0) + _chunk({"error": "EngineDeadError"}), True, "EngineDeadError"),
        (HEAD + _group(0) + b"4\r\nnon\n\r\n", True, "sent what is no JSON"),
        (HEAD + _group(0) + b"3\r\n[]\n\r\n", True, "sent no JSON object"),
        (HEAD + _group(0) + _group(1, "abort"), True, "broke off a sample"),
    ],
)
def test_what_goes_wrong_in_an_answer_fails_the_server(answering, answer, silent, why) -> None:
    # A busy machine may be a while between two chunks: only the case that is about silence has little patience.
    stream = _generate(answering(answer, silent), seconds=1.0 if "said nothing" in why else 30.0)
    assert next(stream)[0] == 0
    with pytest.raises(ServerFailed, match=why):
        next(stream)


def test_another_program_at_the_address_is_told(answering) -> None:
    client = answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ServerFailed, match="answers 404 to /inference/rollout/version"):
        client.version(5)


def test_nobody_at_the_address_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerFailed, match="ConnectionRefusedError"):
        ServerClient(f"127.0.0.1:{port}").version(5)


def test_another_version_is_not_the_servers_failure(answering) -> None:
    body = json.dumps({"detail": "holds weights of version 1, the trainer is at 0"}).encode()
    head = f"HTTP/1.1 409 Conflict\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with pytest.raises(WeightVersionMismatch, match="holds weights of version 1"):
        next(_generate(answering(head + body)))


def test_hanging_up_ends_a_call_that_waits(answering) -> None:
    client = answering(HEAD + _group(0), True)
    stream = _generate(client, seconds=60)
    next(stream)
    threading.Timer(0.1, client.hang_up).start()
    with pytest.raises(ServerFailed):
        next(stream)
