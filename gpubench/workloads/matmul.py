"""Matrix product, as torch (cuBLAS on a GPU) and a Triton kernel compute it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

import gpubench
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype


@gpubench.workload("matmul")
def matmul(m: int, n: int, k: int, dtype: FloatType = "bfloat16") -> dict[str, Tensor]:
    """Matrix product: out [m, n] = a [m, k] · b [k, n]."""
    return {
        "a": torch.randn(m, k, dtype=torch_dtype(dtype)),
        "b": torch.randn(k, n, dtype=torch_dtype(dtype)),
    }


@matmul.backend("torch", baseline=True)
def _(a: Tensor, b: Tensor) -> Step:
    out = a.new_empty(a.shape[0], b.shape[1])
    return lambda: torch.mm(a, b, out=out)


@matmul.backend("triton", requires=["triton"])
def _(a: Tensor, b: Tensor) -> Step:
    from gpubench.kernels.matmul import matmul as launch

    out = a.new_empty(a.shape[0], b.shape[1])
    return lambda: launch(a, b, out)


@matmul.oracle
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.double() @ b.double()


@matmul.bytes
def _(m: int, n: int, k: int, dtype: FloatType) -> int:
    return (m * k + k * n + m * n) * itemsize(dtype)


@matmul.flop
def _(m: int, n: int, k: int) -> int:
    return 2 * m * n * k


@matmul.metric("flop_per_s", unit="FLOP/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Floating-point operations per second."""
    return float(2 * cell.m * cell.n * cell.k / seconds)
