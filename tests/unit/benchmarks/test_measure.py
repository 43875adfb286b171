"""The arithmetic of benchmarks, and that every one of them has its place on the page."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks.__main__ import PAGE, find, put
from benchmarks._measure import MemoryWatch, ratio_of_pairs, slope, spread, table


def test_a_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0]).show(1, "s") == "2.0 (1.0–3.0) s"


def test_a_ratio_is_taken_pair_by_pair() -> None:
    """A machine that halves its speed between two rounds does not move it."""
    assert ratio_of_pairs([3.0, 6.0], [1.0, 2.0]).show(1) == "3.0 (3.0–3.0)"


def test_the_slope_of_a_square_is_two() -> None:
    assert slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [[1, 2]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_memory_is_seen_while_it_is_held() -> None:
    held = b"x" * (64 << 20)
    watch = MemoryWatch(os.getpid(), every_seconds=0.01)
    for _ in range(1000):
        if watch.peak_mib:
            break
        time.sleep(0.01)
    assert watch.stop() > 64
    del held


def test_a_section_replaces_the_old_one() -> None:
    assert put("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="has no place for y"):
        put("a", "y", "new")


def test_every_benchmark_has_its_place_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in find():
        assert put(page, name, "text") != page
