"""The kernels of a decode step's few rows in Triton's interpreter, against fp64; bfloat16 and real sizes on a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from few_rows_on_interpreter import (
    Attention,
    Experts,
    Heads,
    Layer,
    attention_error,
    experts_error,
    heads_error,
    layer_error,
    model_error,
    refuse_attention,
    route_both,
    route_with_bias,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpubench.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
FEW = settings(max_examples=20, deadline=None)

attentions = st.builds(
    Attention,
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(list(TOLERANCE)),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 5, 16, 17]),
    dim=st.sampled_from([16, 32]),
    splits=st.sampled_from([None, 1, 2, 3, 8]),
    spare=st.sampled_from([0, 1, 40]),
)


@FEW
@given(attentions)
@example(Attention((0,), spare=1))
@example(Attention((1, 0), splits=8))
@example(Attention((128, 127, 129), splits=2, spare=0))
def test_attention_is_over_the_cache_up_to_each_length_however_it_is_split(interpreted, case):
    assert interpreted(attention_error, case) < TOLERANCE[case.dtype]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 4, 24)}, r"q has shape \(2, 4, 24\); wanted .* dim one of"),
        ({"keys": torch.zeros(2, 3, 8, 16)}, "3 KV heads for 4 query heads"),
        ({"values": torch.zeros(2, 2, 9, 16)}, r"values has shape \(2, 2, 9, 16\); wanted \(2, 2, 8, 16\)"),
        ({"lengths": torch.ones(2, dtype=torch.int64)}, "lengths is torch.int64"),
        ({"out": torch.zeros(2, 16, 4).mT}, "out of shape .* wanted it contiguous"),
        ({"scratch": torch.zeros(271)}, "scratch has 271 elements; this launch needs 272"),
        ({"splits": 0}, "splits is 0"),
    ],
)
def test_attention_refuses_what_does_not_fit_by_name(interpreted, changes, message):
    with pytest.raises(ArgumentError, match=message):
        interpreted(refuse_attention, changes)


heads = st.builds(
    Heads,
    positions=st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(list(TOLERANCE)),
    heads=st.sampled_from([2, 6]),
    kv_heads=st.sampled_from([1, 2]),
    between=st.sampled_from([0, 3]),
    dim=st.sampled_from([8, 16, 24]),
    half=st.sampled_from([1, 4]),
    is_normed=st.booleans(),
)


@FEW
@given(heads)
@example(Heads((8, -1, 3)))
@example(Heads(tuple(range(-1, 9)) * 26, dim=24))  # as many as a prompt has, a program to sixteen of them
def test_heads_are_normed_and_rotated_and_only_the_tokens_own_place_in_the_cache_is_written(interpreted, case):
    assert interpreted(heads_error, case) < TOLERANCE[case.dtype]


ROUTERS = [
    {"top_k": 3},
    {"top_k": 12, "scale": 2.5},
    {"top_k": 4, "scoring": "sigmoid"},
    {"top_k": 4, "scoring": "sigmoid", "groups": 4, "top_groups": 2, "scale": 2.5},
    {"top_k": 1, "scoring": "sigmoid", "groups": 12, "top_groups": 1},
    {"top_k": 3, "groups": 4, "top_groups": 2},
]

# Multiples of 1/8 tie often; biases of that size overrule scores.
eighths = st.lists(st.integers(-32, 32).map(lambda number: number / 8), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(eighths, min_size=1, max_size=3), eighths, st.sampled_from(ROUTERS), st.sampled_from(list(TOLERANCE)))
@example([[-0.0, 0.0, -1.0, 2.0, 2.0, 1.0, 0.5, -4.0, 2.0, 0.0, 1.0, 1.5]], [0.0] * 12, {"top_k": 12}, torch.float16)
@example([[-0.0, 0.0, -1.0, 2.0, 2.0, 1.0, 0.5, -4.0, 2.0, 0.0, 1.0, 1.5]], [0.0] * 12, {"top_k": 12}, torch.float32)
@example([[2.0, -2.0, -2.0, 1.0, 1.0, -4.0, *[-4.0] * 6]], [0.0] * 12, ROUTERS[-1], torch.float32)
def test_the_experts_are_those_that_torch_chooses_ties_included(interpreted, logits, bias, options, dtype):
    (experts, shares), (wanted, wanted_shares) = interpreted(route_both, logits, bias, options, dtype)
    assert experts == wanted
    for found, own in zip(shares, wanted_shares, strict=True):
        assert found == pytest.approx(own, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


def test_a_bias_is_added_to_what_softmax_makes_of_the_logits(interpreted):
    experts, shares = interpreted(route_with_bias, [[3.0, 0.0, 0.0, 1.0]], [0.0, 1.0, 0.0, 0.0], 2)
    assert experts == [[1, 0]]  # 0.04 + 1 and 0.81; of the logits, 3 and 1
    assert shares == [pytest.approx([1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))])]


layers = st.builds(
    Layer,
    before=st.sampled_from(["nothing", "norm", "gated_norm", "sigmoid_gate", "silu_gate"]),
    rows=st.sampled_from([1, 2, 5]),
    inputs=st.sampled_from([32, 48, 272]),
    outputs=st.sampled_from([1, 20, 70]),
    dtype=st.sampled_from(list(TOLERANCE)),
    has_residual=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(layers)
@example(Layer("norm", inputs=2500))
@example(Layer("gated_norm", inputs=2560, group=128, rows=3))
def test_a_layer_does_what_stands_before_and_after_it_for_any_few_rows(interpreted, case):
    assert interpreted(layer_error, case) < 5 * TOLERANCE[case.dtype]


experts = st.builds(
    Experts,
    rows=st.integers(1, 3),
    held=st.sampled_from([1, 3, 6]),
    top_k=st.sampled_from([1, 2, 6]),
    hidden=st.sampled_from([32, 40]),
    inner=st.sampled_from([16, 24]),
    shared=st.sampled_from([0, 16, 24]),
    has_gate=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCE)),
    all_same=st.booleans(),
    is_oai=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(experts)
@example(Experts(hidden=2056, inner=8))
@example(Experts(hidden=16, inner=520))
def test_a_few_tokens_experts_add_up_with_the_shared_one_and_those_of_other_ranks_add_nothing(interpreted, case):
    assert interpreted(experts_error, case) < 3 * TOLERANCE[case.dtype]


@settings(max_examples=25, deadline=None)
@given(experts.map(lambda case: replace(case, is_grouped=True)))
@example(Experts(rows=37, all_same=True, is_grouped=True))
@example(Experts(rows=520, experts=2, held=2, inner=16, hidden=16, is_grouped=True))
def test_many_tokens_experts_add_up_whoever_chose_them(interpreted, case):
    assert interpreted(experts_error, case) < 5 * TOLERANCE[case.dtype]


@pytest.mark.parametrize("rows", [1, 9, 60])
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3, "shared_intermediate": 24},
        {"top_k": 2, "shared_intermediate": 16, "has_shared_gate": False, "activation": "swiglu_oai", "held": 5},
        {"top_k": 4, "shared_intermediate": 0, "scoring": "sigmoid", "groups": 4, "top_groups": 2, "scale": 2.5},
    ],
)
def test_a_layer_of_experts_is_what_it_is_with_torch(interpreted, options, rows):
    for others in (0, 2 * rows):
        assert interpreted(model_error, options, rows, others) < 1e-5
