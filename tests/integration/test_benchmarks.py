"""The workers that benchmarks drive still drive the real trainers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._bench import Bench
from benchmarks._sides import PEER_PYTHON, Side, take_turns

pytestmark = pytest.mark.slow


def test_this_project_steps_when_told_to(tmp_path: Path) -> None:
    """Two ranks of one thread: a step each, sixteen samples each, its phases inside its time; then a look at held-out problems."""
    bench = Bench(tmp_path, rounds=1, quick=True)
    work = replace(
        bench.micro(), world_size=2, threads=1, problems_per_step=4, group_size=8, heldout=bench.heldout(8)
    )
    with Side("r1", work) as side:
        (steps,) = take_turns([side], 2, 1)
        looked = side.measure()
        assert side.peak_mib > 100
    step = steps[-1]
    assert step.facts["samples"] == 32
    assert step.facts["tokens"] >= 32
    assert 0 < step.phases["sample"] + step.phases["update"] < step.seconds
    assert 0 <= looked["pass_at_1"] <= 0.5


def test_the_peer_does_the_same_work(tmp_path: Path) -> None:
    """TRL samples as many completions of the same prompts, judged by the same code."""
    if not PEER_PYTHON.exists():
        pytest.skip(f"{PEER_PYTHON} is missing: `make bench-setup` installs TRL")
    work = replace(Bench(tmp_path, 1, True).micro(), problems_per_step=4, group_size=8)
    with Side("trl", work) as peer, Side("r1", work) as ours:
        theirs, mine = take_turns([peer, ours], 1, 0)
    assert theirs[0].facts["samples"] == mine[0].facts["samples"] == 32
    assert abs(theirs[0].facts["reward"] - mine[0].facts["reward"]) < 0.3
