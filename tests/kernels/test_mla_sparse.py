"""Latent attention to selected entries in Triton's interpreter, against fp64; bfloat16 is for a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mla_sparse_on_interpreter import Case, check_operator, refuse, sparse_error

from gpubench.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


@st.composite
def cases(draw):
    k = draw(st.sampled_from([1, 5, 31, 32, 33, 100]))
    lengths = draw(st.lists(st.sampled_from([0, 1, 64, 65, 200, 256]), min_size=1, max_size=3))
    tokens = [draw(st.permutations(range(-3, 256)).map(lambda order: tuple(order[:k]))) for _ in lengths]
    return Case(
        tuple(lengths),
        tuple(tokens),
        heads=draw(st.sampled_from([1, 8, 17])),
        kv_lora=draw(st.sampled_from([16, 64])),
        dtype=draw(st.sampled_from(list(TOLERANCE))),
        splits=draw(st.sampled_from([1, 2, 7])),
    )


@settings(max_examples=25, deadline=None)
@given(cases())
@example(Case((9,), ((-1, -1, -1),), splits=2))
@example(Case((70, 70), ((*[-1] * 40, 3), (69, *[-1] * 40))))
def test_attention_is_to_what_is_selected_and_to_nothing_else(interpreted, case):
    assert interpreted(sparse_error, case) < TOLERANCE[case.dtype]


def test_the_published_sizes_agree_with_fp64(interpreted):
    case = Case((250,), (tuple(range(3, 250, 3)),), heads=8, kv_lora=512, rope=64, splits=2)
    assert interpreted(sparse_error, case) < TOLERANCE[torch.float32]


def test_the_operator_declares_what_it_changes(interpreted):
    interpreted(check_operator)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_latent": torch.zeros(2, 16)}, r"q_latent has shape \(2, 16\)"),
        ({"q_rope": torch.zeros(2, 5, 16)}, r"q_rope has shape \(2, 5, 16\); wanted \(2, 4, 16\)"),
        ({"indices": torch.zeros(7, dtype=torch.int32)}, r"indices has shape \(7,\); wanted \(2, k\)"),
        ({"indices": torch.zeros(2, 7)}, "indices is torch.float32"),
        ({"out": torch.zeros(2, 16, 4).mT}, "out of shape .* wanted it contiguous"),
        ({"scratch": torch.zeros(0).double()}, "scratch is torch.float64"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(interpreted, changes, message):
    with pytest.raises(ArgumentError, match=f"mla_sparse_decode: {message}"):
        interpreted(refuse, changes)
