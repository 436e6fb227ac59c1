"""The mixture of experts against a loop over tokens and experts, for any routing."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from gpubench.models.moe import MixtureOfExperts, MoeShape, route

SHAPE = MoeShape(experts=6, top_k=2, intermediate=16, shared_intermediate=24)
HIDDEN = 32

# A token's experts, of which no two are the same, for up to nine tokens: all to the same ones, too.
ROUTINGS = st.lists(
    st.permutations(range(SHAPE.experts)).map(lambda order: order[: SHAPE.top_k]), min_size=1, max_size=9
)


def make_experts(dtype: torch.dtype) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(SHAPE, HIDDEN, dtype)


def run_one_by_one(moe, x, chosen):
    outputs = []
    for row, experts in zip(x.double(), chosen.tolist(), strict=True):
        for expert in experts:
            gate, up = (moe.gate_up[expert].double() @ row).chunk(2)
            outputs.append(moe.down[expert].double() @ (gate * gate.sigmoid() * up))
    return torch.stack(outputs)


@settings(max_examples=40)
@given(ROUTINGS)
def test_gathered_experts_compute_what_was_chosen_whatever_that_is(routing):
    moe, chosen = make_experts(torch.float32), torch.tensor(routing)
    x = torch.randn(len(routing), HIDDEN)
    torch.testing.assert_close(
        moe.run_gathered(x, chosen).double(), run_one_by_one(moe, x, chosen), rtol=1e-4, atol=1e-5
    )


@settings(max_examples=40)
@given(ROUTINGS)
def test_grouped_experts_compute_what_was_chosen_whatever_that_is(routing):
    moe, chosen = make_experts(torch.bfloat16), torch.tensor(routing)
    x = torch.randn(len(routing), HIDDEN, dtype=torch.bfloat16)
    torch.testing.assert_close(
        moe.run_grouped(x, chosen).double(), run_one_by_one(moe, x, chosen), rtol=2e-2, atol=2e-2
    )


@pytest.mark.parametrize("way", ["run_grouped", "run_gathered"])
def test_all_tokens_may_go_to_the_same_experts(way):
    moe = make_experts(torch.bfloat16)
    x = torch.randn(64, HIDDEN, dtype=torch.bfloat16)
    chosen = torch.tensor([[5, 0]]).repeat(64, 1)
    found = getattr(moe, way)(x, chosen)
    torch.testing.assert_close(found.double(), run_one_by_one(moe, x, chosen), rtol=2e-2, atol=2e-2)


def test_the_layer_adds_the_chosen_by_their_shares_and_the_shared_one_by_its_gate():
    moe = make_experts(torch.float32)
    x = torch.randn(5, HIDDEN)
    probabilities = (x @ moe.router.T).softmax(-1)
    best = probabilities.topk(SHAPE.top_k)
    shares = best.values / best.values.sum(-1, keepdim=True)
    routed = (run_one_by_one(moe, x, best.indices).view(5, SHAPE.top_k, HIDDEN) * shares[..., None]).sum(1)
    gate, up = (x @ moe.shared_gate_up.T).chunk(2, dim=-1)
    shared = (x @ moe.shared_gate.T).sigmoid() * ((F.silu(gate) * up) @ moe.shared_down.T)
    torch.testing.assert_close(moe(x).double(), routed + shared, rtol=1e-4, atol=1e-5)


def test_shares_add_up_to_one_and_the_larger_come_first():
    experts, shares = route(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 3)
    assert experts.tolist() == [[1, 3, 2]]
    assert shares.sum().item() == pytest.approx(1)
    assert (shares[0].diff() < 0).all()


def test_of_experts_that_tie_those_with_the_lowest_index_are_chosen():
    logits = torch.zeros(3, 64)
    logits[1, 40:] = 1
    experts, shares = route(logits, 4)
    assert experts.tolist() == [[0, 1, 2, 3], [40, 41, 42, 43], [0, 1, 2, 3]]
    assert (shares == 0.25).all()


@pytest.mark.parametrize("way", ["run_grouped", "run_gathered"])
def test_nothing_depends_on_the_data_but_values(way):
    with FakeTensorMode():  # its tensors have shapes and no values: whoever asks for one is told off
        moe = MixtureOfExperts(SHAPE, HIDDEN, torch.bfloat16)
        moe.run_chosen = getattr(moe, way)
        assert moe(torch.randn(7, HIDDEN, dtype=torch.bfloat16)).shape == (7, HIDDEN)


def test_the_experts_touched_are_the_mean_over_all_routings():
    shape = MoeShape(experts=4, top_k=2, intermediate=1, shared_intermediate=1)
    choices = [set(chosen) for chosen in combinations(range(4), 2)]
    for batch in (1, 2, 3):
        sizes = [len(set().union(*chosen)) for chosen in product(choices, repeat=batch)]
        assert shape.touched(batch) == pytest.approx(sum(sizes) / len(sizes))
        assert shape.touched(batch) <= min(4, 2 * batch)
