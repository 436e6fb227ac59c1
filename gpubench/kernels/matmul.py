"""Matrix product.

    out[i, j] = Σ over l of a[i, l] · b[l, j]

a [m, k], b [k, n], out [m, n], of any strides; float32, float16 or bfloat16, summed in float32. A float32 product is
exact to rounding: no TF32.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_launchable, check_operand

__all__ = ["Tiling", "choose_tiling", "matmul"]


@dataclass(frozen=True)
class Tiling:
    """How one program's tile of `out` is cut, and what a program gets to compute it."""

    block_m: int
    block_n: int
    block_k: int
    group_m: int
    """Rows of tiles that run together, so that they find each other's columns of b in the L2 cache."""
    num_warps: int
    num_stages: int


# By bytes per element: the largest m that a tiling serves, and the tiling; the last one serves the rest.
# Not tuned: each fits the 99 KiB of shared memory that every GPU since compute capability 8.0 has.
_TILINGS: dict[int, tuple[tuple[int, Tiling], ...]] = {
    2: (
        (16, Tiling(block_m=16, block_n=64, block_k=128, group_m=1, num_warps=4, num_stages=4)),
        (64, Tiling(block_m=64, block_n=64, block_k=64, group_m=4, num_warps=4, num_stages=4)),
        (0, Tiling(block_m=128, block_n=128, block_k=64, group_m=8, num_warps=8, num_stages=3)),
    ),
    4: (
        (16, Tiling(block_m=16, block_n=64, block_k=64, group_m=1, num_warps=4, num_stages=3)),
        (0, Tiling(block_m=64, block_n=64, block_k=32, group_m=8, num_warps=4, num_stages=3)),
    ),
}


def choose_tiling(m: int, itemsize: int) -> Tiling:
    """The table's tiling for a product with `m` rows of elements of `itemsize` bytes."""
    rows = _TILINGS[itemsize]
    return next((tiling for largest_m, tiling in rows if m <= largest_m), rows[-1][1])


@triton.jit
def _matmul_kernel(
    a_ptr,
    b_ptr,
    out_ptr,
    m,
    n,
    k,
    a_stride_m,
    a_stride_k,
    b_stride_k,
    b_stride_n,
    out_stride_m,
    out_stride_n,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    # Programs walk the tiles in groups of GROUP_M rows, column by column within a group.
    program = tl.program_id(0)
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    group = program // (GROUP_M * tiles_n)
    first_m = group * GROUP_M
    group_rows = min(tiles_m - first_m, GROUP_M)
    within = program % (GROUP_M * tiles_n)
    tile_m = first_m + within % group_rows
    tile_n = within // group_rows

    # 64 bits: an offset into a matrix may exceed 32.
    rows = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    columns = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    inner = tl.arange(0, BLOCK_K).to(tl.int64)
    a_tile = a_ptr + rows[:, None] * a_stride_m + inner[None, :] * a_stride_k
    b_tile = b_ptr + inner[:, None] * b_stride_k + columns[None, :] * b_stride_n

    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        a = tl.load(a_tile, mask=(rows[:, None] < m) & (inner[None, :] < k - start), other=0.0)
        b = tl.load(b_tile, mask=(inner[:, None] < k - start) & (columns[None, :] < n), other=0.0)
        total = tl.dot(a, b, total, input_precision="ieee")
        a_tile += BLOCK_K * a_stride_k
        b_tile += BLOCK_K * b_stride_k

    out_tile = out_ptr + rows[:, None] * out_stride_m + columns[None, :] * out_stride_n
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(out_tile, total.to(out_ptr.dtype.element_ty), mask=inside)


def matmul(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write a · b into `out`, and return it. Neither allocates nor synchronises.

    ArgumentError names an argument whose shape, dtype or device doesn't fit.
    """
    check_launchable("matmul", "a", a)
    if a.dim() != 2 or min(a.shape) < 1:
        raise ArgumentError(f"matmul: a has shape {tuple(a.shape)}; wanted (m, k), each at least 1")
    m, k = a.shape
    n = b.shape[-1] if b.dim() else 0
    if n < 1:
        raise ArgumentError(f"matmul: b has shape {tuple(b.shape)}; wanted ({k}, n), n at least 1")
    check_operand("matmul", "b", b, (k, n), like=a)
    check_operand("matmul", "out", out, (m, n), like=a)
    tiling = choose_tiling(m, a.element_size())
    grid = (triton.cdiv(m, tiling.block_m) * triton.cdiv(n, tiling.block_n),)
    _matmul_kernel[grid](
        a,
        b,
        out,
        m,
        n,
        k,
        *a.stride(),
        *b.stride(),
        *out.stride(),
        BLOCK_M=tiling.block_m,
        BLOCK_N=tiling.block_n,
        BLOCK_K=tiling.block_k,
        GROUP_M=tiling.group_m,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    return out
