"""Plain values as JSON frames over a file descriptor: how inputs go into a jail and results come out.

Neither side ever unpickles or evaluates what the other wrote. Only exact plain data travels: None, bool, int,
float, complex, str, bytes, list, tuple, set, frozenset, dict. A subclass travels as its base value, read with the
base class's own methods, so that an object with a forged `__eq__` is compared by its content. Anything else
becomes `Opaque`, which equals nothing.

Wire form: None, bool, float, str and small ints are themselves; everything else is `[tag, ...]`.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

_HEADER = struct.Struct("!I")
_EXACT_INT = 2**53
_SEQUENCES: tuple[tuple[type, str], ...] = (
    (list, "l"),
    (tuple, "t"),
    (set, "s"),
    (frozenset, "f"),
)
_BUILD = {"l": list, "t": tuple, "s": set, "f": frozenset}
MAX_NODES = 100_000
"""More elements than this in one value are refused: no test of ours expects so many."""
MAX_FRAME = 4 * 1024 * 1024
_MAX_DEPTH = 100


class CodecError(ValueError):
    """A value is too large or too deep, or a frame is not one that `encode` writes."""


class Opaque:
    """Stands for an object that is not plain data. Equal to nothing, not even itself."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def encode(value: object) -> Any:
    """Turn a plain value into its JSON form.

    Raises:
        CodecError: more than `MAX_NODES` elements, or nested too deep.
    """
    return _encode(value, [MAX_NODES], 0)


def _encode(value: object, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > _MAX_DEPTH:
        raise CodecError("the value is too large or nested too deep")
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        return number if -_EXACT_INT < number < _EXACT_INT else ["i", hex(number)]
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["c", complex.__complex__(value).real, complex.__complex__(value).imag]
    if isinstance(value, bytes):
        return ["b", bytes.hex(value)]
    if isinstance(value, dict):
        flat: list[Any] = ["d"]
        for key, item in dict.items(value):
            flat += (_encode(key, budget, depth + 1), _encode(item, budget, depth + 1))
        return flat
    for base, tag in _SEQUENCES:
        if isinstance(value, base):
            return [tag, *(_encode(item, budget, depth + 1) for item in base.__iter__(value))]  # type: ignore[attr-defined]
    return ["o", kind.__name__[:80]]


def decode(form: Any, max_nodes: int = MAX_NODES) -> Any:
    """Rebuild the value that `encode` was given.

    Raises:
        CodecError: not a form `encode` writes, or more than `max_nodes` elements. The bound is what keeps a set
            of a hundred thousand colliding hashes from stalling the reader.
    """
    try:
        return _decode(form, [max_nodes], 0)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CodecError(f"not a value: {error}") from error


def _decode(form: Any, budget: list[int], depth: int) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > _MAX_DEPTH:
        raise CodecError("the value is larger or deeper than allowed")
    if not isinstance(form, list):
        if isinstance(form, dict):
            raise CodecError("a bare object")
        return form
    tag = form[0]
    if tag == "i":
        return int(form[1], 16)
    if tag == "b":
        return bytes.fromhex(form[1])
    if tag == "c":
        return complex(float(form[1]), float(form[2]))
    if tag == "o":
        return Opaque(str(form[1])[:80])
    items = [_decode(item, budget, depth + 1) for item in form[1:]]
    if tag == "d":
        if len(items) % 2:
            raise CodecError("a dict with a key and no value")
        return dict(zip(items[::2], items[1::2], strict=True))
    return _BUILD[tag](items)


def count_nodes(value: object) -> int:
    """How many elements `encode` would count in a plain value."""
    if isinstance(value, dict):
        return 1 + sum(count_nodes(k) + count_nodes(v) for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return 1 + sum(count_nodes(item) for item in value)
    return 1


def pack(message: Any) -> bytes:
    """One frame: four bytes of length, then JSON."""
    body = json.dumps(message, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if len(body) > MAX_FRAME:
        raise CodecError(f"a frame of {len(body)} bytes; the limit is {MAX_FRAME}")
    return _HEADER.pack(len(body)) + body


def write_frame(fd: int, message: Any) -> None:
    """Write one frame, whole."""
    write_all(fd, pack(message))


def write_all(fd: int, data: bytes) -> None:
    """Write every byte."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_frame(fd: int) -> Any:
    """Read one frame; None at the end of the stream.

    Raises:
        CodecError: the frame is larger than `MAX_FRAME`, cut short, or not JSON.
    """
    header = _read_exactly(fd, _HEADER.size)
    if not header:
        return None
    (size,) = _HEADER.unpack(header)
    if size > MAX_FRAME:
        raise CodecError(f"a frame of {size} bytes; the limit is {MAX_FRAME}")
    return parse_body(_read_exactly(fd, size))


def parse_body(body: bytes) -> Any:
    """The JSON of a frame.

    Raises:
        CodecError: not JSON, or nested so deep that the parser refuses.
    """
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON: {error}") from error


def _read_exactly(fd: int, size: int) -> bytes:
    chunks = []
    left = size
    while left:
        chunk = os.read(fd, left)
        if not chunk:
            if left == size:
                return b""
            raise CodecError("the stream ended inside a frame")
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


class FrameBuffer:
    """Cuts frames out of bytes as they arrive, for a reader that polls."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Add bytes, return the frames they completed.

        Raises:
            CodecError: see `read_frame`.
        """
        self._data += data
        frames = []
        while len(self._data) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._data)
            if size > MAX_FRAME:
                raise CodecError(f"a frame of {size} bytes; the limit is {MAX_FRAME}")
            end = _HEADER.size + size
            if len(self._data) < end:
                break
            frames.append(parse_body(bytes(self._data[_HEADER.size : end])))
            del self._data[:end]
        return frames
