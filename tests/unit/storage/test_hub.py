"""Which errors of the Hugging Face hub pass: the real client against a server that answers what a test tells it to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline_lib.base_model import prepare_base_model
from pipeline_lib.data.sources import load_problems
from pipeline_lib.errors import ConfigError, PipelineError, StorageAway, StorageError
from pipeline_lib.params import SourceSpec
from pipeline_lib.params.data import PrepareBaseModelParams

OPTIONS = {"dataset": "a/b", "file": "x.jsonl", "revision": "main", "layout": "gsm8k"}


class Hub:
    """The status and headers of every answer."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub.utils._http as http
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # `make` forbids to ask
    told = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            self.send_response(told.status)
            for name, value in {"Content-Length": "0", **told.headers}.items():
                self.send_header(name, value)
            self.end_headers()

        do_GET = do_HEAD = _any

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _point_at(monkeypatch, server.server_address[1])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)
    yield told
    server.shutdown()
    server.server_close()


def _point_at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    from huggingface_hub import HfApi, constants

    address = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    assert HfApi().endpoint == address


def problem_file() -> None:
    load_problems(SourceSpec(kind="hub", options=OPTIONS), seed=1)


def base_model() -> None:
    prepare_base_model(PrepareBaseModelParams(kind="hub", source="a/b"), Path("nowhere"))


both = pytest.mark.parametrize("act", [problem_file, base_model])


@both
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_that_cannot_answer_now_is_tried_again(hub: Hub, act, status: int) -> None:
    hub.status = status
    with pytest.raises(StorageAway, match="a/b") as caught:
        act()
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@both
def test_a_hub_out_of_reach_is_tried_again(hub: Hub, act, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _point_at(monkeypatch, port)
    with pytest.raises(StorageAway, match="a/b"):
        act()


@both
@pytest.mark.parametrize(
    ("status", "code"), [(404, "RepoNotFound"), (404, "RevisionNotFound"), (403, "GatedRepo"), (403, "")]
)
def test_what_the_hub_refuses_is_final(hub: Hub, act, status: int, code: str) -> None:
    hub.status, hub.headers = status, {"X-Error-Code": code}
    assert _final(act) == (StorageError if act is problem_file else ConfigError)


@both
def test_a_hub_that_may_not_be_asked_is_final(hub: Hub, act, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _final(act) == (StorageError if act is problem_file else ConfigError)


def _final(act) -> type[PipelineError]:
    with pytest.raises(PipelineError, match="a/b") as caught:
        act()
    assert caught.value.exit_code == 2
    return type(caught.value)
