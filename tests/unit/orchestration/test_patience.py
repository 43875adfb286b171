"""Waiting for a store that is away, with a clock that does not wait."""

from __future__ import annotations

import threading

import pytest

from pipeline_lib.errors import ConfigError, StorageAway, StorageError
from pipeline_lib.orchestration import patience


class Clock:
    def __init__(self) -> None:
        self.now, self.pauses = 0.0, []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


def test_only_what_failed_is_done_again_and_every_pause_is_told(clock):
    lock, calls, lines = threading.Lock(), [], []

    def act(item: int) -> None:
        with lock:
            calls.append(item)
            if item == 3 and calls.count(3) < 4:
                raise StorageAway("s3://b/k: nobody answers.")

    patience.for_each(range(6), act, patience=120, tell=lines.append)
    assert sorted(calls) == [0, 1, 2, 3, 3, 3, 3, 4, 5]
    assert len(lines) == len(clock.pauses) == 3
    assert lines[0].startswith("warning: s3://b/k: nobody answers. 1 of 6 objects left; trying again in ")


def test_pauses_grow_are_drawn_and_end_at_the_limit(clock):
    def away(item: int) -> None:
        raise StorageAway("gone.")

    with pytest.raises(StorageAway, match=r"gone\. 1 of 1 objects are left after 300 s"):
        patience.for_each([1], away, patience=300, tell=lambda line: None)
    full = [min(2.0**n, 30.0) for n in range(len(clock.pauses))]
    assert all(f / 2 <= p <= f for p, f in zip(clock.pauses[:-1], full[:-1], strict=True))
    assert any(p not in (f / 2, f) for p, f in zip(clock.pauses, full, strict=True))
    assert sum(clock.pauses) == pytest.approx(300)


def test_the_limit_counts_from_the_last_object_that_got_through(clock):
    done = []

    def act(item: int) -> None:
        if clock.now < 40 * item:
            raise StorageAway("gone.")
        done.append(item)

    patience.for_each([0, 1, 2, 3], act, patience=60, tell=lambda line: None)
    assert done == [0, 1, 2, 3]


def test_what_waiting_does_not_mend_is_raised_at_once(clock):
    def refused(item: int) -> None:
        raise StorageError("refused")

    with pytest.raises(StorageError, match="refused"):
        patience.for_each([1], refused, patience=300, tell=lambda line: None)
    assert clock.pauses == []


@pytest.mark.parametrize("asked", ["soon", "-1", "inf", "nan"])
def test_a_patience_that_is_no_number_of_seconds(monkeypatch, asked):
    monkeypatch.setenv("R1_S3_PATIENCE", asked)
    with pytest.raises(ConfigError, match="R1_S3_PATIENCE"):
        patience.patience_s()
