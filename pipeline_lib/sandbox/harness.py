"""Runs inside the jail, in the program's own process: loads the program, then answers calls with plain values.

It knows inputs and nothing else. The program shares this process and may rewrite any of it; all it can win is the
power to choose which values come back, and those are compared elsewhere with answers that were never here.

Frames in: `{"eval": expression}` or `{"call": name, "args": [...], "kwargs": {...}}`.
Frames out: `{"ready": true}` before any untrusted line ran, `{"loaded": true}` or `{"error": ...}` for the program
itself, then `{"value": ...}` or `{"error": ...}` for each call.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from pipeline_lib.sandbox import codec

PROGRAM_NAME = "program"


def serve(source_fd: int, calls_fd: int, results_fd: int) -> None:
    """Load the program from `source_fd` and answer frames from `calls_fd` until it is closed."""
    request = codec.read_frame(source_fd)
    codec.write_frame(results_fd, {"ready": True})
    module = types.ModuleType(PROGRAM_NAME)
    sys.modules[PROGRAM_NAME] = module
    namespace = module.__dict__
    loaded = _attempt(functools.partial(_load, request["program"], namespace))
    failed = "error" in loaded
    codec.write_frame(results_fd, loaded if failed else {"loaded": True})
    entry_point = request["entry_point"]
    if not failed and entry_point in namespace:
        namespace["candidate"] = namespace[entry_point]
    while not failed and (call := codec.read_frame(calls_fd)) is not None:
        _reply(results_fd, _attempt(functools.partial(_answer, call, namespace)))


def _load(program: str, namespace: dict[str, Any]) -> None:
    exec(compile(program, "<program>", "exec"), namespace)  # noqa: S102 -- the jail's purpose


def _answer(call: dict[str, Any], namespace: dict[str, Any]) -> object:
    if "eval" in call:
        return eval(compile(call["eval"], "<test>", "eval"), namespace)  # noqa: S307 -- a dataset's expression, in the jail
    arguments = codec.decode(call["args"])
    keywords = codec.decode(call["kwargs"])
    return namespace[call["call"]](*arguments, **keywords)


def _reply(results_fd: int, frame: dict[str, Any]) -> None:
    try:
        packed = codec.pack(frame)
    except (codec.CodecError, MemoryError, UnicodeError) as error:
        packed = codec.pack({"error": describe(error)})
    codec.write_all(results_fd, packed)


def _attempt(action: Callable[[], object]) -> dict[str, Any]:
    try:
        return {"value": codec.encode(action())}
    except (
        BaseException
    ) as error:  # the program may raise anything, SystemExit and KeyboardInterrupt included
        return {"error": describe(error)}


def describe(error: BaseException) -> str:
    """One short line, whatever the exception's own `__str__` does."""
    try:
        return f"{type(error).__name__}: {error}"[:300].encode("utf-8", "replace").decode()
    except BaseException:  # a hostile __str__
        return type(error).__name__[:80]
