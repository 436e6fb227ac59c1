"""Row-wise RMS normalisation: what a workload looks like. Copy this file to begin one of your own."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

import gpubench
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype

EPS = 1e-6


@gpubench.workload("rmsnorm")
def rmsnorm(rows: int, dim: int, dtype: FloatType = "bfloat16") -> dict[str, Tensor]:
    """Row-wise RMS normalisation: out = x / √(mean(x²) + eps) · weight."""
    # The arguments are the axes. The worker has set the default device and the seed.
    return {
        "x": torch.randn(rows, dim, dtype=torch_dtype(dtype)),
        "weight": torch.randn(dim, dtype=torch_dtype(dtype)),
    }


@rmsnorm.backend("torch", baseline=True)
def _(x: Tensor, weight: Tensor) -> Step:
    # A set-up takes inputs by name and is not timed; what it returns is the step, which is.
    return lambda: F.rms_norm(x, weight.shape, weight, EPS)


@rmsnorm.backend("triton", requires=["triton"])
def _(x: Tensor, weight: Tensor) -> Step:
    from gpubench.kernels.rmsnorm import rmsnorm as launch

    out = torch.empty_like(x)
    return lambda: launch(x, weight, out, eps=EPS)


@rmsnorm.oracle
def _(x: Tensor, weight: Tensor) -> Tensor:
    x, weight = x.double(), weight.double()
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


@rmsnorm.bytes
def _(rows: int, dim: int, dtype: FloatType) -> int:
    return (2 * rows * dim + dim) * itemsize(dtype)  # x read, out written, the weight read once


@rmsnorm.flop
def _(rows: int, dim: int) -> int:
    return 4 * rows * dim  # square, add, scale, weight


@rmsnorm.metric("rows_per_s", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Rows normalised per second."""
    return float(cell.rows / seconds)
