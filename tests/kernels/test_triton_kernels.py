"""The Triton kernels in Triton's interpreter, against fp64; bfloat16 is for a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_interpreter import (
    call_gated_silu,
    call_matmul,
    call_rmsnorm,
    gated_silu_error,
    matmul_error,
    rmsnorm_error,
)

from gpubench.errors import ArgumentError, Unsupported

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
DTYPES = st.sampled_from(list(TOLERANCE))
FEW = settings(max_examples=25, deadline=None)


@FEW
@given(m=st.integers(1, 140), n=st.integers(1, 140), k=st.integers(1, 200), dtype=DTYPES, transposed=st.booleans())
def test_matmul_is_right_for_any_sizes_and_writes_nothing_else(interpreted, m, n, k, dtype, transposed):
    assert interpreted(matmul_error, m, n, k, dtype, transposed) < TOLERANCE[dtype]


@FEW
@given(rows=st.integers(1, 9), dim=st.integers(1, 3000), dtype=DTYPES, scale=st.sampled_from([1.0, 100.0]))
def test_rmsnorm_is_right_for_any_sizes_and_writes_nothing_else(interpreted, rows, dim, dtype, scale):
    assert interpreted(rmsnorm_error, rows, dim, dtype, scale) < TOLERANCE[dtype]


def test_rmsnorm_of_a_zero_row_is_zero_not_nan(interpreted):
    zero, one = torch.zeros(1, 8), torch.ones(8)
    assert interpreted(call_rmsnorm, zero, one, torch.ones(1, 8)).tolist() == zero.tolist()


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 5), width=st.integers(1, 3000), dtype=DTYPES, scale=st.sampled_from([1.0, 30.0]))
def test_gated_silu_is_right_for_any_sizes_and_writes_nothing_else(interpreted, rows, width, dtype, scale):
    assert interpreted(gated_silu_error, rows, width, dtype, scale) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("gate_up", "out", "complaint"),
    [
        (torch.zeros(2, 5), torch.zeros(2, 2), r"gate_up has shape \(2, 5\); wanted \(rows, an even number\)"),
        (torch.zeros(2, 6), torch.zeros(2, 2), r"out has shape \(2, 2\); wanted \(2, 3\)"),
        (torch.zeros(2, 8)[:, :6], torch.zeros(2, 3), "gate_up of shape .* wanted it contiguous"),
    ],
)
def test_gated_silu_names_the_argument_that_does_not_fit(interpreted, gate_up, out, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call_gated_silu, gate_up, out)


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        (((4,), (4, 4), (4, 4)), r"a has shape \(4,\); wanted \(m, k\)"),
        (((4, 0), (0, 4), (4, 4)), r"a has shape \(4, 0\)"),
        (((4, 5), (6, 3), (4, 3)), r"b has shape \(6, 3\); wanted \(5, 3\)"),
        (((4, 5), (5, 0), (4, 0)), r"b has shape \(5, 0\); wanted \(5, n\)"),
        (((4, 5), (5, 3), (3, 4)), r"out has shape \(3, 4\); wanted \(4, 3\)"),
    ],
)
def test_matmul_names_the_argument_of_a_wrong_shape(interpreted, shapes, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call_matmul, *shapes)


@pytest.mark.parametrize(
    ("x", "weight", "out", "complaint"),
    [
        (torch.zeros(4), torch.zeros(4), torch.zeros(4), r"x has shape \(4,\); wanted \(rows, dim\)"),
        (torch.zeros(2, 4), torch.zeros(5), torch.zeros(2, 4), r"weight has shape \(5,\); wanted \(4,\)"),
        (torch.zeros(2, 4), torch.zeros(4), torch.zeros(4, 2), r"out has shape \(4, 2\); wanted \(2, 4\)"),
        (torch.zeros(2, 4), torch.zeros(4).half(), torch.zeros(2, 4), "weight is torch.float16 on cpu; wanted"),
        (torch.zeros(4, 2).T, torch.zeros(4), torch.zeros(2, 4), "x has stride 2 along dim; wanted 1"),
        (torch.zeros(1, 32769), torch.zeros(32769), torch.zeros(1, 32769), "dim from 1 to 32768"),
        (torch.zeros(2, 4).double(), torch.zeros(4), torch.zeros(2, 4), "x is torch.float64"),
    ],
)
def test_rmsnorm_names_the_argument_that_does_not_fit(interpreted, x, weight, out, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call_rmsnorm, x, weight, out)


def test_bfloat16_is_not_for_the_interpreter(interpreted):
    with pytest.raises(Unsupported, match=r"x has dtype bfloat16, .* use float32 or float16"):
        interpreted(call_rmsnorm, torch.zeros(2, 4).bfloat16(), torch.zeros(4), torch.zeros(2, 4))


def test_without_a_gpu_and_without_the_interpreter_a_launch_is_refused():
    with pytest.raises(ArgumentError, match="Triton needs a GPU, or TRITON_INTERPRET=1"):
        call_rmsnorm(torch.zeros(2, 4), torch.zeros(4), torch.zeros(2, 4))
