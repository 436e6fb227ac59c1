"""The mixture of experts against a loop over tokens and experts, for any routing."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from gpubench.errors import ArgumentError
from gpubench.models.moe import MixtureOfExperts, MoeShape, route
from gpubench.models.presets import PRESETS

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
    shape = MoeShape(experts=4, top_k=3, intermediate=1, shared_intermediate=1)
    experts, shares = route(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), shape)
    assert experts.tolist() == [[1, 3, 2]]
    assert shares.sum().item() == pytest.approx(1)
    assert (shares[0].diff() < 0).all()


def test_of_experts_that_tie_those_with_the_lowest_index_are_chosen():
    shape = MoeShape(experts=64, top_k=4, intermediate=1, shared_intermediate=1)
    logits = torch.zeros(3, 64)
    logits[1, 40:] = 1
    experts, shares = route(logits, shape)
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


# Twelve experts in four groups of three, two of them open: a token's two best experts may lie in a closed group.
GROUPED = MoeShape(
    experts=12,
    top_k=4,
    intermediate=8,
    shared_intermediate=16,
    scoring="sigmoid",
    groups=4,
    top_groups=2,
    scale=2.5,
    has_shared_gate=False,
)


def route_one_by_one(logits, bias, shape):
    """Sigmoid scores, groups and bias, written out for one token; float32, so that what ties there ties here."""
    scores = logits.sigmoid()
    wanted = scores + bias
    size = shape.experts // shape.groups
    members = [list(range(group * size, (group + 1) * size)) for group in range(shape.groups)]
    best = [wanted[group].sort().values[-2:].sum().item() for group in members]
    opened = sorted(range(shape.groups), key=lambda group: (-best[group], group))[: shape.top_groups]
    eligible = [expert for group in opened for expert in members[group]]
    chosen = sorted(eligible, key=lambda expert: (-wanted[expert].item(), expert))[: shape.top_k]
    total = sum(scores[expert].item() for expert in chosen)
    return chosen, [shape.scale * scores[expert].item() / total for expert in chosen]


# Multiples of 1/8 tie often; a bias beyond the scores' range overrules them.
EIGHTHS = st.lists(st.integers(-32, 32).map(lambda number: number / 8), min_size=12, max_size=12)


@given(st.lists(EIGHTHS, min_size=1, max_size=4), EIGHTHS)
def test_sigmoid_scores_choose_by_bias_within_the_best_groups_and_share_without_it(logits, bias):
    logits, bias = torch.tensor(logits), torch.tensor(bias)
    experts, shares = route(logits, GROUPED, bias)
    for row, found, own in zip(logits, experts.tolist(), shares.tolist(), strict=True):
        chosen, wanted = route_one_by_one(row, bias, GROUPED)
        assert set(found) == set(chosen)
        assert dict(zip(found, own, strict=True)) == pytest.approx(dict(zip(chosen, wanted, strict=True)), rel=1e-5)


def cut(whole, shape, rank, ranks):
    """What one of `ranks` has of `whole`: its experts renamed to be the first, and a slice of the shared one."""
    part = MixtureOfExperts(shape, HIDDEN, whole.gate_up.dtype)
    turned = torch.arange(whole.shape.experts).roll(-rank * shape.held)
    slices = [tensor.chunk(ranks)[rank] for tensor in whole.shared_gate_up.chunk(2)]
    weights = {
        "router": whole.router[turned],
        "gate_up": whole.gate_up[turned[: shape.held]],
        "down": whole.down[turned[: shape.held]],
        "shared_gate_up": torch.cat(slices),
        "shared_down": whole.shared_down.chunk(ranks, dim=1)[rank],
    }
    if whole.bias is not None:
        weights["bias"] = whole.bias[turned]
    if whole.shared_gate is not None:
        weights["shared_gate"] = whole.shared_gate
    part.load_state_dict(weights)
    return part


@pytest.mark.parametrize("shape", [SHAPE, GROUPED])
@pytest.mark.parametrize(("way", "dtype"), [("run_grouped", torch.bfloat16), ("run_gathered", torch.float32)])
def test_the_ranks_parts_add_up_to_the_whole(shape, way, dtype):
    ranks = 2
    torch.manual_seed(0)
    whole = MixtureOfExperts(shape, HIDDEN, dtype)
    share = replace(shape, held=shape.experts // ranks, shared_intermediate=shape.shared_intermediate // ranks)
    parts = [cut(whole, share, rank, ranks) for rank in range(ranks)]
    for moe in (whole, *parts):
        moe.run_chosen = getattr(moe, way)
    x = torch.randn(16, HIDDEN, dtype=dtype)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(sum(part(x) for part in parts), whole(x), rtol=tolerance, atol=tolerance)
    assert not torch.allclose(parts[0](x), parts[1](x), atol=0.1)


def test_a_rank_counts_its_own_experts_and_the_whole_router():
    share = replace(GROUPED, held=3)
    assert share.parameters(HIDDEN) == sum(
        tensor.numel() for tensor in MixtureOfExperts(share, HIDDEN, torch.float32).parameters()
    )
    assert share.touched(1) == pytest.approx(GROUPED.touched(1) / 4) == share.chosen_here
    left_out = GROUPED.chosen_here - share.chosen_here
    assert GROUPED.products(HIDDEN) - share.products(HIDDEN) == left_out * share.expert_parameters(HIDDEN)


def test_without_a_shared_expert_the_chosen_are_all():
    torch.manual_seed(0)
    moe = MixtureOfExperts(replace(SHAPE, shared_intermediate=0), HIDDEN, torch.float32)
    x = torch.randn(3, HIDDEN)
    chosen, shares = route(F.linear(x, moe.router), moe.shape)
    routed = (run_one_by_one(moe, x, chosen).view(3, SHAPE.top_k, HIDDEN) * shares[..., None]).sum(1)
    torch.testing.assert_close(moe(x).double(), routed, rtol=1e-4, atol=1e-5)
    assert moe.shape.parameters(HIDDEN) == sum(tensor.numel() for tensor in moe.parameters())


@pytest.mark.parametrize(
    ("name", "ranks", "rows"),
    [("qwen3.5-35b-a3b", 1, 5), ("deepseek-v3", 1, 1), ("deepseek-v3", 16, 0), ("tiny-mla", 1, 8)],
)
def test_each_token_reads_its_own_experts_where_few_do_and_what_they_choose_is_small_and_here(name, ranks, rows):
    config = PRESETS[name]
    with torch.device("meta"):
        moe = MixtureOfExperts(config.moe.rank_share("TEP", ranks), config.hidden, torch.bfloat16)
    assert moe.few_rows == rows


@pytest.mark.parametrize(
    ("wrong", "numbers"),
    [
        ({"groups": 5}, "12 experts .* 5 groups"),
        ({"top_groups": 5}, "4 groups, 5"),
        ({"top_groups": 1}, "4 experts .* 1 groups of 3"),
        ({"held": 0}, "1 to 12 of 12 experts; got 0"),
        ({"held": 13}, "got 13"),
    ],
)
def test_experts_that_do_not_work_out_are_refused_with_their_numbers(wrong, numbers):
    with pytest.raises(ArgumentError, match=numbers):
        replace(GROUPED, **wrong)
