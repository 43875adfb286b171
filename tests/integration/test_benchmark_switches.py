"""The benchmark of fast paths really switches them, one at a time, and puts the trainer back."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from benchmarks._measure import peak_mib_of
from benchmarks.switches import compare, quarter_flat, variants
from pipeline_lib.training.distributed import join_world
from pipeline_lib.training.policy import Switches
from pipeline_lib.training.update import PolicyTrainer
from tests.unit.training.tiny import engine_params, groups_of, grpo_params, on_ranks, tiny_model

pytestmark = pytest.mark.slow

SWITCHED = [field.name for field in fields(Switches) if field.name != "skip_kl"]
"""What a trainer reads at every update; skipping the KL is decided when it is made."""
ONE_FLAT = [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]


def _trainer_and_groups():
    model, engine = tiny_model(), engine_params()
    trainer = PolicyTrainer(model, grpo_params(), engine, join_world(engine), Switches())
    return trainer, groups_of(model, ONE_FLAT)


def _inside_each():
    trainer, groups = _trainer_and_groups()
    before = trainer.settings
    seen = []
    for variant in variants(trainer):
        with variant.applied():
            tokens = trainer.update(groups, 0.0).trained_tokens
            seen.append((trainer.switches, trainer.engine.module.switches, trainer.settings.kl_coef, tokens))
            assert (trainer.reference is not None) == (trainer.settings.kl_coef > 0)
        assert trainer.switches == trainer.engine.module.switches == Switches()
        assert trainer.settings == before
        assert trainer.reference is None
    return seen, [sum(len(c.token_ids) for c in group.completions) for group in groups]


def test_each_variant_differs_in_one_thing_and_is_undone():
    [(seen, (first, flat))] = on_ranks(1, _inside_each)
    *switched, kl = seen
    for name, (trainers, policys, kl_coef, tokens) in zip(SWITCHED, switched, strict=True):
        assert trainers == policys == replace(Switches(), **{name: False})
        assert kl_coef == 0
        assert tokens == (first + flat if name == "skip_flat_groups" else first)
    assert kl == (Switches(), Switches(), 0.01, first + flat)


def test_the_table_has_a_row_for_each_and_leaves_the_weights_alone():
    def table_and_moved():
        trainer, groups = _trainer_and_groups()
        text = compare(trainer, groups, 1)
        pairs = zip(trainer.lm.parameters(), tiny_model().parameters(), strict=True)
        return text, any(bool((now != old).any()) for now, old in pairs)

    [(text, moved)] = on_ranks(1, table_and_moved)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "none",
        *(f"`{name}`" for name in SWITCHED),
        "KL skipped: β 0.01 instead of 0",
    ]
    assert all(float(row[1].split()[0]) > 0 for row in rows)
    assert not moved


def test_a_quarter_of_the_groups_is_made_flat_and_the_rest_left():
    groups = groups_of(tiny_model(), [[1.0, 0.0, 0.0, 1.0]] * 4)
    assert [[reward.total for reward in group.rewards] for group in quarter_flat(groups)] == [
        [0.0] * 4,
        *[[1.0, 0.0, 0.0, 1.0]] * 3,
    ]
    assert quarter_flat(groups)[0].completions == groups[0].completions


def test_a_peak_is_that_of_the_action_alone():
    size = 96 << 20

    def idle_busy_idle():
        return [
            peak_mib_of(action) for action in (lambda: None, lambda: bytearray(b"x") * size, lambda: None)
        ]

    [(before, busy, after)] = on_ranks(1, idle_busy_idle)
    assert busy - before == pytest.approx(96, abs=8)
    assert after == pytest.approx(before, abs=8)
