"""What stands before block-sparse attention in Triton's interpreter, against fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparse_gqa_inputs_on_interpreter import Case, call_with, check_operator, inputs_error, operands

from gpubench.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}

cases = st.builds(
    Case,
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(list(TOLERANCE)),
    heads=st.sampled_from([1, 4, 6]),
    kv_heads=st.integers(1, 2),
    index_heads=st.integers(1, 3),
    dim=st.sampled_from([16, 24, 32]),
    index_dim=st.sampled_from([8, 16, 32]),
    half=st.sampled_from([1, 3, 4]),
)


@settings(max_examples=15, deadline=None)
@given(cases)
@example(Case((1, 16, 17, 64)))
@example(Case((128, 3), dim=128, index_dim=128, half=32, block=64, room=2, heads=8, kv_heads=1, index_heads=1))
def test_every_head_is_normalised_rotated_and_put_where_it_belongs_and_nothing_else_changes(interpreted, case):
    assert interpreted(inputs_error, case) < TOLERANCE[case.dtype]


def test_a_row_without_a_place_is_left_as_it_is(interpreted):
    assert interpreted(inputs_error, Case((0, 5, 65, -1))) < TOLERANCE[torch.float32]


def test_the_operator_declares_what_it_changes(interpreted):
    interpreted(check_operator)


GIVEN = operands(Case((3, 17)))[0]
WRONG = {
    "projected": (0, GIVEN[0][:, :-1], r"wanted \(2, 304\)"),
    "query_norm": (1, GIVEN[1][:-1], r"wanted \(32,\)"),
    "index_key_norm": (4, GIVEN[1], r"wanted \(16,\)"),
    "rotary": (5, torch.ones(64, 2, 9), "positions, 2, 1 to 8"),
    "block_table": (6, GIVEN[6][:1], "max_blocks"),
    "lengths": (7, GIVEN[7].long(), "torch.int32"),
    "index_query": (9, GIVEN[9][:, 0], "rows, heads, dim"),
    "k_cache": (10, GIVEN[10][:, :, :15], "block of 16, 32, 64, 128"),
    "v_cache": (11, GIVEN[11].half(), "torch.float32"),
    "index_k": (12, GIVEN[12].mT, r"wanted \(9, 16, 16\)|stride"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_argument_that_does_not_fit_is_named(interpreted, name):
    place, wrong, complaint = WRONG[name]
    with pytest.raises(ArgumentError, match=f"sparse_gqa_inputs: {name}.*({complaint})"):
        interpreted(call_with, place, wrong)
