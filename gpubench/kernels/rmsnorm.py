"""RMS normalisation of each row, after Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    out[r, d] = x[r, d] / √(mean over d of x[r, d]² + eps) · weight[d]

x, out [rows, dim]; weight [dim]; float32, float16 or bfloat16, computed in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_launchable, check_operand

__all__ = ["MAX_DIM", "rmsnorm"]

MAX_DIM = 32768
"""A row is held in the registers of one program: 32 warps × 32 threads × 32 elements."""

# Warps by the longest row that they serve: about 16 elements per thread until the row outgrows them. Not tuned.
_WARPS = ((1024, 2), (2048, 4), (4096, 8), (8192, 16), (MAX_DIM, 32))


@triton.jit
def _rmsnorm_kernel(x_ptr, weight_ptr, out_ptr, x_stride, out_stride, dim, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # row · stride may exceed 32 bits
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / dim + eps)
    tl.store(out_ptr + row * out_stride + columns, (x * scale * weight).to(out_ptr.dtype.element_ty), mask=inside)


def rmsnorm(x: Tensor, weight: Tensor, out: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Write the normalised rows of `x` into `out`, and return it. Neither allocates nor synchronises.

    Rows may be strided; the elements of a row must be adjacent. ArgumentError names an argument that doesn't fit.
    """
    check_launchable("rmsnorm", "x", x)
    if x.dim() != 2 or x.shape[0] < 1 or not 1 <= x.shape[1] <= MAX_DIM:
        raise ArgumentError(f"rmsnorm: x has shape {tuple(x.shape)}; wanted (rows, dim), dim from 1 to {MAX_DIM}")
    rows, dim = x.shape
    check_operand("rmsnorm", "weight", weight, (dim,), like=x)
    check_operand("rmsnorm", "out", out, (rows, dim), like=x)
    for name, tensor in (("x", x), ("weight", weight), ("out", out)):
        if tensor.stride(-1) != 1 and dim > 1:
            raise ArgumentError(f"rmsnorm: {name} has stride {tensor.stride(-1)} along dim; wanted 1")
    warps = next(warps for longest, warps in _WARPS if dim <= longest)
    block = triton.next_power_of_2(dim)
    _rmsnorm_kernel[(rows,)](x, weight, out, x.stride(0), out.stride(0), dim, eps, BLOCK=block, num_warps=warps)
    return out
