"""HTTP to one rollout server, in the words of `routes`. Standard library only: three calls and one stream of lines.

Whatever goes wrong with a server (refused, silent for too long, ended in the middle, an answer that is no JSON)
becomes `ServerFailed`, which the pool answers by sampling elsewhere. What is the caller's own fault does not: a
version other than the one asked for is WeightVersionMismatch, on every server the same and never to be papered over.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline_lib.errors import PipelineError, WeightVersionMismatch
from pipeline_lib.types import SamplingParams

PREFIX = "/inference/rollout"
CONNECT_SECONDS = 10.0
CONFLICT = 409
_WHY = {
    401: "it was started with another VLLM_API_KEY; give this process the same",
    404: "no rollout server; start it with `python -m pipeline_lib.rollout.servers.command`",
}


class ServerFailed(PipelineError):
    """A rollout server is dead, silent beyond its deadline, or not one of this project's."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as a server sends it. A log-probability is None where it was not finite."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    finish_reason: str
    versions: tuple[str, ...]
    """Of the weights that drew its tokens; more than one if they were changed under way."""


@dataclass(frozen=True, slots=True)
class ServerClient:
    """One server, by its address host:port. Every call opens a connection of its own: a server may have been replaced."""

    address: str
    key: str = ""
    """What the server was started with as VLLM_API_KEY; empty: none."""
    _open: set[socket.socket] = field(default_factory=set, init=False, compare=False)

    def hang_up(self) -> None:
        """End every call in progress, from any thread; a server that is hung up on stops sampling for it."""
        for connected in list(self._open):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def version(self, seconds: float) -> str:
        """The version of the weights that it holds."""
        with self._call("GET", "version", None, seconds) as response:
            return str(_object(self.address, response.read())["version"])

    def load_weights(self, paths: Sequence[str], version: int, seconds: float) -> None:
        """Make it load files, and confirm the version that it holds then."""
        body = {"paths": list(paths), "version": str(version)}
        with self._call("POST", "weights", body, seconds) as response:
            held = _object(self.address, response.read())["version"]
        if held != str(version):
            raise WeightVersionMismatch(
                f"server {self.address} holds weights of version {held} after an update to version {version}"
            )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        stop_token_ids: Sequence[int],
        seed: int,
        version: int,
        silence_seconds: float,
    ) -> Iterator[tuple[int, list[Sample]]]:
        """(index of the prompt, its samples), as each group ends; ServerFailed if none comes for `silence_seconds`."""
        body = {
            "prompts": [list(prompt) for prompt in prompts],
            "n": sampling.n,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop_token_ids": list(stop_token_ids),
            "seed": seed,
            "version": str(version),
        }
        left = len(prompts)
        with self._call("POST", "generate", body, silence_seconds) as response:
            while left:
                line = response.readline()
                if not line:
                    raise ServerFailed(f"server {self.address} ended its answer with {left} groups missing")
                found = _object(self.address, line)
                if "error" in found:
                    raise ServerFailed(f"server {self.address}: {found['error']}")
                left -= 1
                samples = [_sample(sample) for sample in found["samples"]]
                if any(sample.finish_reason not in ("stop", "length") for sample in samples):
                    raise ServerFailed(f"server {self.address} broke off a sample")
                yield int(found["prompt"]), samples

    @contextmanager
    def _call(
        self, method: str, route: str, body: Mapping[str, Any] | None, seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        """The response of one request, its status checked; `seconds` is the longest silence on the connection."""
        connection = http.client.HTTPConnection(self.address, timeout=CONNECT_SECONDS)
        connected: socket.socket | None = None
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.connect()
            connected = connection.sock
            connected.settimeout(seconds)
            self._open.add(connected)
            connection.request(
                method, f"{PREFIX}/{route}", None if body is None else json.dumps(body), headers
            )
            response = connection.getresponse()
            if response.status == CONFLICT:
                detail = _object(self.address, response.read())["detail"]
                raise WeightVersionMismatch(f"server {self.address} {detail}")
            if response.status != 200:
                why = _WHY.get(response.status, "its own log says why")
                raise ServerFailed(
                    f"server {self.address} answers {response.status} to {PREFIX}/{route}: {why}"
                )
            yield response
        except TimeoutError as error:
            raise ServerFailed(f"server {self.address} said nothing for {seconds:g} s") from error
        except KeyError as error:
            raise ServerFailed(f"server {self.address} sent JSON without {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailed(f"server {self.address}: {type(error).__name__}: {error}") from error
        finally:
            if connected is not None:
                self._open.discard(connected)
            connection.close()


def _object(address: str, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ServerFailed(f"server {address} sent what is no JSON: {line[:60]!r}") from error
    if not isinstance(found, dict):
        raise ServerFailed(f"server {address} sent no JSON object: {line[:60]!r}")
    return found


def _sample(found: Mapping[str, Any]) -> Sample:
    return Sample(
        token_ids=tuple(found["token_ids"]),
        logprobs=tuple(found["logprobs"]),
        finish_reason=str(found["finish_reason"]),
        versions=tuple(found["versions"]),
    )
