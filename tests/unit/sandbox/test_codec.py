"""The wire between jails: plain values survive it, nothing else is believed."""

from __future__ import annotations

import contextlib
import enum
import json
from collections import Counter, OrderedDict, namedtuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_lib.sandbox import codec

settings.register_profile("codec", max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
quick = settings.get_profile("codec")
_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
_hashable = st.recursive(
    _leaves, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4), max_leaves=4
)
plain_values = st.recursive(
    _hashable,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(_hashable, inner)
        | st.sets(_hashable, max_size=4)
    ),
    max_leaves=10,
)


@quick
@given(plain_values)
def test_round_trip(value: object) -> None:
    frame = codec.FrameBuffer().feed(codec.pack({"v": codec.encode(value)}))
    back = codec.decode(frame[0]["v"])
    assert back == value
    assert type(back) is type(value)


@quick
@given(plain_values)
def test_count_is_what_decoding_needs(value: object) -> None:
    nodes = codec.count_nodes(value)
    assert codec.decode(codec.encode(value), max_nodes=nodes) == value
    if nodes > 1:
        with pytest.raises(codec.CodecError):
            codec.decode(codec.encode(value), max_nodes=nodes - 1)


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda i: st.lists(i) | st.dictionaries(st.text(), i),
    )
)
def test_any_json_decodes_or_is_refused(form: object) -> None:
    with contextlib.suppress(codec.CodecError):
        codec.decode(form)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    with contextlib.suppress(codec.CodecError):
        codec.FrameBuffer().feed(data)


def test_frames_may_arrive_in_pieces() -> None:
    buffer, data = codec.FrameBuffer(), codec.pack([1]) + codec.pack([2])
    assert [frame for byte in data for frame in buffer.feed(bytes([byte]))] == [[1], [2]]


def test_subclasses_travel_as_their_base() -> None:
    class Colour(enum.IntEnum):
        RED = 3

    point = namedtuple("point", "x y")(1, 2)
    for value, base in (
        (Colour.RED, 3),
        (point, (1, 2)),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
    ):
        assert codec.decode(codec.encode(value)) == base


def test_other_objects_equal_nothing() -> None:
    opaque = codec.decode(codec.encode(object()))
    assert isinstance(opaque, codec.Opaque)
    assert opaque != opaque


def test_large_and_deep_values_are_refused() -> None:
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]
    for value in (list(range(codec.MAX_NODES + 1)), deep):
        with pytest.raises(codec.CodecError):
            codec.encode(value)
    with pytest.raises(codec.CodecError):
        codec.parse_body(json.dumps("x").encode()[:-1])
    with pytest.raises(codec.CodecError):
        codec.parse_body(b"[" * 100_000)
