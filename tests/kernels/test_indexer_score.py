"""indexer_score in Triton's interpreter, against fp64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_indexer_score import call, check_operator, make, score_error

from gpubench.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


@settings(max_examples=20, deadline=None)
@given(
    sequences=st.integers(1, 3),
    heads=st.integers(1, 64),
    dim=st.integers(1, 128),
    columns=st.integers(120, 400),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_scores_are_right_for_any_sizes(interpreted, sequences, heads, dim, columns, dtype):
    assert interpreted(score_error, sequences, heads, dim, columns, dtype) < TOLERANCE[dtype]


def test_the_operator_declares_what_it_changes(interpreted):
    compiled, expected = interpreted(check_operator)
    torch.testing.assert_close(compiled, expected)


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (0, torch.zeros(4, 16), r"q has shape \(4, 16\)"),
        (0, torch.zeros(2, 4, 16).double(), "q is torch.float64"),
        (1, torch.zeros(2, 5), r"weights has shape \(2, 5\); wanted \(2, 4\)"),
        (2, torch.zeros(2, 20, 8), r"keys has shape \(2, 20, 8\); wanted \(2, 20, 16\)"),
        (2, torch.zeros(20, 2, 16).transpose(0, 1), "wanted it contiguous"),
        (3, torch.zeros(2), "lengths is torch.float32"),
        (4, torch.zeros(2, 19), r"out has shape \(2, 19\); wanted \(2, width\), at least 20 wide"),
        (4, torch.zeros(2, 20).half(), "wanted float32"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(interpreted, place, value, complaint):
    arguments = [*make(2, 4, 16, 20, torch.float32)[:4], torch.zeros(2, 20)]
    arguments[place] = value
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call, *arguments)
