"""rmsnorm and matmul: the two that newcomers read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpubench.registry import get_workload

SIZES = {"rmsnorm": {"rows": 5, "dim": 33}, "matmul": {"m": 5, "n": 7, "k": 33}}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", SIZES)
def test_the_baseline_agrees_with_the_oracle(set_up, name, dtype):
    ready = set_up(name, "torch", dtype=dtype, **SIZES[name])
    out = ready.step()
    assert out.dtype is getattr(torch, dtype)
    rtol = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}[dtype]
    torch.testing.assert_close(out.double(), ready.reference(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", SIZES)
def test_one_backend_is_the_baseline_and_triton_is_required_only_by_its_own(name):
    info = get_workload(name).info()
    assert info.baseline == "torch"
    assert {backend.name: backend.requires for backend in info.backends} == {"torch": [], "triton": ["triton"]}


def test_dtypes_are_choices_so_that_a_misspelt_one_is_caught_before_anything_runs():
    (dtype,) = (axis for axis in get_workload("matmul").info().axes if axis.name == "dtype")
    assert dtype.choices == ["bfloat16", "float16", "float32"]


def test_work_counts_every_operand_once():
    rmsnorm, matmul = get_workload("rmsnorm"), get_workload("matmul")
    assert rmsnorm.bytes_function(rows=3, dim=10, dtype="bfloat16") == 2 * (3 * 10 + 10 + 3 * 10)
    assert rmsnorm.flop_function(rows=3, dim=10) == 120
    assert matmul.bytes_function(m=2, n=3, k=5, dtype="float32") == 4 * (10 + 15 + 6)
    assert matmul.flop_function(m=2, n=3, k=5) == 60


def test_metrics_are_rates():
    matmul, rmsnorm = get_workload("matmul"), get_workload("rmsnorm")
    assert matmul.metrics["flop_per_s"].function(SimpleNamespace(m=2, n=3, k=5), 0.5) == 120
    assert rmsnorm.metrics["rows_per_s"].function(SimpleNamespace(rows=3), 0.5) == 6
