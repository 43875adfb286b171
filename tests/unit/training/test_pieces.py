"""Order, schedule, micro-batches, job spec, metrics, sample table: the pieces a training loop is made of."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.errors import DataError
from pipeline_lib.training import distributed
from pipeline_lib.training.metrics import Judged, final_summary, sample_metrics, to_csv
from pipeline_lib.training.microbatch import Branch, cut
from pipeline_lib.training.order import Cursor, derived_seed, epoch_order
from pipeline_lib.training.packing import Tree
from pipeline_lib.training.samples_table import RolloutRow, keep_steps, write_rollouts
from pipeline_lib.training.schedule import warmup_constant, warmup_cosine
from pipeline_lib.training.spec import JobSpec


def test_every_epoch_visits_every_item_once_in_another_order():
    cursor = Cursor(7, seed=1)
    first, second = cursor.take(7), cursor.take(7)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert Cursor(7, seed=2).take(7) != first


def test_a_cursor_resumes_where_it_was():
    whole = Cursor(5, seed=3).take(13)
    cursor = Cursor(5, seed=3)
    assert cursor.take(4) + Cursor(5, 3, cursor.position).take(9) == whole


def test_derived_seeds_do_not_collide_on_neighbours():
    seeds = {derived_seed("rollout", 7, stage, step) for stage in "ab" for step in range(200)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derived_seed("a", "bc") != derived_seed("ab", "c")
    assert epoch_order(5, 1, 0) == epoch_order(5, 1, 0)


def test_warmup_then_constant():
    assert [warmup_constant(s, 2.0, 4) for s in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert warmup_constant(0, 2.0, 0) == 2.0


def test_cosine_goes_from_the_peak_to_a_tenth():
    rates = [warmup_cosine(s, 101, 5e-5, 0.0, 0.1) for s in range(101)]
    assert rates[0] == pytest.approx(5e-5)
    assert rates[50] == pytest.approx((5e-5 + 5e-6) / 2)
    assert rates[-1] == pytest.approx(5e-6)
    assert all(a >= b for a, b in pairwise(rates))
    warm = [warmup_cosine(s, 100, 1.0, 0.1, 0.1) for s in range(100)]
    assert warm[0] == pytest.approx(0.1)
    assert warm[9] == pytest.approx(1.0)
    assert warm[10] == pytest.approx(1.0)


GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 60), min_size=1, max_size=8)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(GROUPS, st.integers(8, 200), st.booleans())
def test_cut_keeps_every_completion_once_within_the_budget(groups, budget, by_length):
    branches, row = [], 0
    for prompt, lengths in groups:
        branches.append(
            Branch(Tree([1] * prompt, [[2] * n for n in lengths]), tuple(range(row, row + len(lengths))))
        )
        row += len(lengths)
    batches = cut(branches, budget, by_length=by_length)
    found = {}
    for batch in batches:
        assert sum(b.tree.tokens for b in batch) <= budget or (len(batch) == 1 and len(batch[0].rows) == 1)
        for branch in batch:
            for completion, number in zip(branch.tree.completions, branch.rows, strict=True):
                assert number not in found
                found[number] = (len(branch.tree.prompt), len(completion))
    expected = {
        r: (len(b.tree.prompt), len(c))
        for b in branches
        for c, r in zip(b.tree.completions, b.rows, strict=True)
    }
    assert found == expected


def test_cut_without_sorting_keeps_the_order():
    branches = [Branch(Tree([1], [[2] * n]), (i,)) for i, n in enumerate((9, 1, 5))]
    assert [b.rows for part in cut(branches, 100, by_length=False) for b in part] == [(0,), (1,), (2,)]
    assert [b.rows for part in cut(branches, 100) for b in part] == [(1,), (2,), (0,)]


def _spec(**overrides):
    base = {
        "kind": "sft", "stage": "distill", "item": "qwen", "seed": 1, "section": {"epochs": 2}, "engine": {"threads": 1},
        "inputs": {"model": "m"}, "outputs": {"model": "o"},
    }  # fmt: skip
    return JobSpec(**{**base, **overrides})


def test_spec_survives_json_and_names_its_item():
    spec = _spec()
    assert JobSpec.from_json(spec.to_json()) == spec
    assert spec.name == "distill@qwen"
    assert _spec(item=None).name == "distill"


def test_content_key_follows_spec_and_inputs(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights").write_text("a")
    key = _spec().content_key(tmp_path)
    assert key == _spec().content_key(tmp_path)
    assert key != _spec(seed=2).content_key(tmp_path)
    assert key != _spec(section={"epochs": 3}).content_key(tmp_path)
    (tmp_path / "m" / "weights").write_text("b")
    assert key != _spec().content_key(tmp_path)
    with pytest.raises(DataError):
        _spec(inputs={"model": "missing"}).content_key(tmp_path)


RIGHT = Judged(
    "math",
    "correct",
    1.1,
    (("accuracy", 1.0), ("format", 0.1)),
    False,
    4,
    True,
    2.0,
    "<think>so</think><answer>1</answer>",
)
WRONG = replace(
    RIGHT,
    outcome="wrong",
    total=0.0,
    parts=(("accuracy", 0.0), ("format", 0.0)),
    tokens=8,
    finished=False,
    surprise=10.0,
    text="so",
)
LOST = replace(RIGHT, outcome="timeout", total=0.0, masked=True)


def test_sample_metrics_by_hand():
    row = sample_metrics([[RIGHT, WRONG], [WRONG, WRONG], [RIGHT, LOST]])
    assert row["accuracy"] == row["accuracy_math"] == pytest.approx(2 / 5)
    assert row["reward"] == pytest.approx(2.2 / 5)
    assert row["reward_accuracy"] == pytest.approx(3 / 6)
    assert row["length"] == pytest.approx((4 * 3 + 8 * 3) / 6)
    assert row["truncated_share"] == pytest.approx(0.5)
    assert row["format_rate"] == pytest.approx(0.5)
    assert row["entropy"] == pytest.approx((2 * 3 + 10 * 3) / 36)
    assert row["masked_share"] == pytest.approx(1 / 6)
    assert row["zero_variance_groups"] == 2
    assert row["all_wrong_share"] == pytest.approx(1 / 3)
    assert row["verdict_correct"] == 2
    assert row["verdict_timeout"] == 1
    assert "accuracy_code" not in row


def test_csv_has_every_column_and_blanks():
    text = to_csv([{"step": 0.0, "b": 1.0}, {"step": 1.0, "a": 0.123456789}])
    assert text == "step,a,b\n0,,1\n1,0.123457,\n"
    assert to_csv([]) == "step\n"


def test_summary_compares_the_ends():
    rows = [{"accuracy": 0.1, "skipped_step": 1.0}] * 10 + [{"accuracy": 0.5}] * 10
    summary = final_summary(rows)
    assert summary["first_accuracy"] == pytest.approx(0.1)
    assert summary["accuracy"] == pytest.approx(0.5)
    assert summary["skipped_steps"] == 10
    assert json.dumps(summary)


def test_kept_steps_reach_from_first_to_last():
    assert keep_steps(100, 64, 4) == {round(i * 99 / 15) for i in range(16)}
    assert keep_steps(3, 64, 4) == {0, 1, 2}
    assert keep_steps(10, 0, 4) == frozenset()
    assert keep_steps(10, 1, 4) == {0}


def test_rollout_table_has_the_same_bytes_twice(tmp_path):
    row = RolloutRow(0, "p", "math", "1+1", "2", "correct", "2", 1.0, 3, True)
    write_rollouts(tmp_path / "a.parquet", [row])
    write_rollouts(tmp_path / "b.parquet", [row])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert pq.read_table(tmp_path / "a.parquet").to_pylist()[0]["response"] == "2"
    write_rollouts(tmp_path / "c.parquet", [])
    assert pq.read_table(tmp_path / "c.parquet").num_rows == 0


def test_ranks_speak_on_the_interface_that_reaches_the_first_one(monkeypatch) -> None:
    known = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.7", "fe80::1%eth0"], "ib0": ["10.1.0.7"]}
    monkeypatch.setattr(
        distributed.psutil,
        "net_if_addrs",
        lambda: {name: [SimpleNamespace(address=a) for a in given] for name, given in known.items()},
    )
    routes = {"node0": "10.1.0.7", "me": "127.0.1.1", distributed.ELSEWHERE: "10.0.0.7", "six": "fe80::1"}
    monkeypatch.setattr(distributed, "_source_address", routes.get)
    assert [distributed.interface_to(name) for name in ("127.0.0.1", "localhost")] == ["lo", "lo"]
    assert distributed.interface_to("node0") == "ib0"
    assert distributed.interface_to("six") == "eth0"
    # The first rank's own name is loopback on a usual Debian: what reaches the world reaches the others.
    assert distributed.interface_to("me") == "eth0"
    monkeypatch.delitem(routes, distributed.ELSEWHERE)
    assert distributed.interface_to("me") is None
    assert distributed.interface_to("nobody") is None
