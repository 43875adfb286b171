"""The packed forward equals transformers' own, row by row: values, gradients, both families, every switch.

Not covered: dropout (there is none in training here) and sliding-window attention (refused by the sampler).
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.training.lean_body import lean_hidden
from pipeline_lib.training.logprobs import chunked_logprobs, plain_logprobs
from pipeline_lib.training.packing import Tree, pack
from pipeline_lib.training.policy import Policy, Switches, pack_for
from tests.unit.training.tiny import plain_logprobs as row_logprobs
from tests.unit.training.tiny import tiny_model

TREES = [
    Tree((5, 9, 11), ((7, 8, 9, 10, 3), (4,), (6, 6))),
    Tree((3,), ((20, 21, 22, 23, 24, 25, 26, 27),)),
    Tree((2, 3, 4, 5, 6, 7, 8, 9), ((12, 13), (14, 15, 16))),
]
SWITCHES = [
    Switches(),
    Switches(share_prompts=False),
    Switches(completion_logits=False),
    Switches(chunked_logits=False),
    Switches(keep_softmax=False),
    Switches(lean_body=False),
    Switches(share_prompts=False, completion_logits=False, chunked_logits=False),
]


def _reference(model, trees, temperature):
    return torch.cat([row_logprobs(model, t.prompt, c, temperature) for t in trees for c in t.completions])


@pytest.mark.parametrize("family", ["qwen", "llama"])
@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_equal_the_plain_path(family, switches, temperature):
    model = tiny_model(family)
    before = model.config._attn_implementation
    expected = _reference(model, TREES, temperature)
    actual = Policy(model, switches)(pack_for(model, TREES, switches), temperature)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)
    weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(1))
    parameters = list(model.parameters())
    wanted = torch.autograd.grad((expected * weights).sum(), parameters)
    found = torch.autograd.grad((actual * weights).sum(), parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)
    assert model.config._attn_implementation == before


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 40), min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_any_shape_of_trees(shapes):
    model = tiny_model()
    g = torch.Generator().manual_seed(0)
    ids = lambda n: torch.randint(2, 40, (n,), generator=g).tolist()  # noqa: E731
    trees = [Tree(ids(p), [ids(c) for c in completions]) for p, completions in shapes]
    packed = pack(trees)
    assert packed.input_ids_1T.shape[1] == sum(tree.tokens for tree in trees)
    with torch.no_grad():
        actual = Policy(model, Switches())(packed, 1.0)
        torch.testing.assert_close(actual, _reference(model, trees, 1.0), atol=3e-5, rtol=1e-5)
    assert packed.mask_BT.sum(1).tolist() == [c for _, completions in shapes for c in completions]
    flat = packed.unflatten(packed.targets_M)
    assert flat[packed.mask_BT].tolist() == [t for tree in trees for c in tree.completions for t in c]


def test_an_empty_completion_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pack([Tree((1,), ((),))])
    with pytest.raises(ValueError, match="at least one token"):
        pack([])


@pytest.mark.parametrize("elements", [1, 40, 10**9])
@pytest.mark.parametrize("kept_bytes", [0, 4 * 13 * 5, 10**9])
def test_chunks_change_nothing(monkeypatch, elements, kept_bytes):
    monkeypatch.setattr("pipeline_lib.training.logprobs.CHUNK_ELEMENTS", elements)
    monkeypatch.setattr("pipeline_lib.training.logprobs.KEPT_BYTES", kept_bytes)
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 13, bias=False)
    hidden = torch.randn(9, 6, requires_grad=True)
    targets, slope = torch.randint(0, 13, (9,)), torch.randn(9)
    wanted = plain_logprobs(hidden, head, targets, 0.5)
    found = chunked_logprobs(hidden, head.weight, targets, 0.5)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad((found * slope).sum(), [hidden, head.weight]),
        torch.autograd.grad((wanted * slope).sum(), [hidden, head.weight]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_kept_and_recomputed_chunks_give_the_same_bits_also_in_a_second_backward_pass(monkeypatch):
    monkeypatch.setattr("pipeline_lib.training.logprobs.CHUNK_ELEMENTS", 40)
    torch.manual_seed(0)
    weight, hidden = torch.randn(13, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    targets, slope = torch.randint(0, 13, (9,)), torch.randn(9)
    kept, computed = (
        (chunked_logprobs(hidden, weight, targets, 0.5, keep=keep) * slope).sum() for keep in (True, False)
    )
    wanted = torch.autograd.grad(computed, [hidden, weight])
    for retain in (True, False):
        for a, b in zip(
            torch.autograd.grad(kept, [hidden, weight], retain_graph=retain), wanted, strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_the_lean_body_runs_where_it_is_said_to(monkeypatch, family):
    """Equality alone would also hold if it never ran."""
    model, calls = tiny_model(family), []
    monkeypatch.setattr(
        "pipeline_lib.training.policy.lean_hidden",
        lambda lm, batch: calls.append(1) or lean_hidden(lm, batch),
    )
    for policy, times in (
        (Policy(model, Switches()), 1),
        (Policy(model, Switches(lean_body=False)), 0),
        (Policy(model, Switches(), gathered=False), 0),
        (Policy(tiny_model(family).bfloat16(), Switches()), 0),
    ):
        calls.clear()
        policy(pack_for(policy.lm, TREES, policy.switches))
        assert len(calls) == times
