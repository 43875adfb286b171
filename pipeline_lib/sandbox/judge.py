"""Runs inside a jail of its own: test code that cannot be split into an input and an expected value.

A HumanEval `check(candidate)` with loops, tolerances or helper calls runs here, trusted as the data set is trusted. The
program sits in *another* jail; `candidate`, and any name that the test code uses and does not define, is a proxy that
sends plain arguments over a socket and gets plain values back. So expected values never share a process with the
program, and the pipe that carries the verdict is not open in the program's process.

Limits of this mode: arguments must be plain data (a test that passes a function raises `Unsendable`, a verifier error),
and a change that the program makes to its argument in place is not seen here.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import types
from typing import Any

from pipeline_lib.sandbox import codec
from pipeline_lib.sandbox.harness import describe


class ProgramError(Exception):
    """The program raised, ended, or returned something that is not plain data."""


class Unsendable(Exception):
    """The test passes an argument that is not plain data: the test's limit, not the program's fault."""


class Remote:
    """A function that lives in the program's jail."""

    def __init__(self, name: str, fd: int) -> None:
        self._name, self._fd = name, fd

    def __call__(self, *args: object, **kwargs: object) -> Any:
        try:
            frame = {"call": self._name, "args": codec.encode(args), "kwargs": codec.encode(kwargs)}
            if not _is_plain((args, kwargs)):
                raise Unsendable(f"{self._name} is called with an argument that is not plain data")
        except codec.CodecError as error:
            raise Unsendable(str(error)) from error
        try:
            codec.write_frame(self._fd, frame)
            answer = codec.read_frame(self._fd)
        except (OSError, codec.CodecError) as error:
            raise ProgramError(f"no answer: {error}") from error
        if not isinstance(answer, dict) or ("value" not in answer and "error" not in answer):
            raise ProgramError("the program ended before it answered")
        if "error" in answer:
            raise _as_raised(str(answer["error"])[:300])
        try:
            value = codec.decode(answer["value"])
        except codec.CodecError as error:
            raise ProgramError(f"returned {error}") from error
        if not _is_plain(value):
            raise ProgramError("returned something that is not plain data")
        return value


def _as_raised(text: str) -> ProgramError:
    """An exception that `except ValueError` in a test catches, where the program raised a ValueError."""
    kind = getattr(builtins, text.partition(":")[0], None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with contextlib.suppress(TypeError):  # a few kinds cannot be made from a text
            both: type[ProgramError] = type(kind.__name__, (ProgramError, kind), {})
            return both(text)
    return ProgramError(text)


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def serve(tests_fd: int, program_fd: int, results_fd: int) -> None:
    """Run each test, write `{"passed": index}` or the failure, and stop at the first failure."""
    request = codec.read_frame(tests_fd)
    codec.write_frame(results_fd, {"ready": True})
    for expected in ("ready", "loaded"):
        answer = codec.read_frame(program_fd)
        if expected == "ready" and isinstance(answer, dict) and "refused" in answer:
            codec.write_frame(
                results_fd, {"failed": 0, "verifier_error": f"the jail was refused: {answer['refused']}"}
            )
            return
        if not isinstance(answer, dict) or expected not in answer:
            error = answer.get("error") if isinstance(answer, dict) else None
            codec.write_frame(
                results_fd, {"failed": 0, "error": str(error or "the program ended while loading")[:300]}
            )
            return
    for index, source in enumerate(request["tests"]):
        failure = _run(source, request["entry_point"], program_fd)
        codec.write_frame(results_fd, {"passed": index} if failure is None else {"failed": index, **failure})
        if failure is not None:
            return


def _run(source: str, entry_point: str, program_fd: int) -> dict[str, str] | None:
    tree = ast.parse(source)
    module = types.ModuleType("tests")
    for name in _free_names(tree):
        setattr(module, name, Remote(name, program_fd))
    candidate = Remote(entry_point, program_fd)
    module.__dict__["candidate"] = candidate
    try:
        exec(compile(tree, "<tests>", "exec"), module.__dict__)  # noqa: S102 -- the data set's test, in the jail
        if defines_check(tree) and not _calls_check(tree):
            module.__dict__["check"](candidate)
    except Unsendable as error:
        return {"verifier_error": describe(error)}
    except (
        BaseException
    ) as error:  # whatever a test raises on this program's values, the program did not pass it
        return {"error": describe(error)}
    return None


def defines_check(tree: ast.Module) -> bool:
    """True for a HumanEval-style module with `def check(candidate)`."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)


def _calls_check(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "check"
        for node in tree.body
    )


def _free_names(tree: ast.Module) -> set[str]:
    """Names the test reads and nobody in it binds: functions of the program."""
    read: set[str] = set()
    bound: set[str] = {"candidate"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return {name for name in read - bound if not hasattr(builtins, name)}
