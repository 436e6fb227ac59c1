"""A kernel of your own in a file of your own: SwiGLU's activation, silu(gate) · up, in one pass over memory.

gpubench sweep examples/my_kernel.yaml
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

import gpubench


@gpubench.workload("silu_and_mul")
def silu_and_mul(rows: int, dim: int, dtype: str = "bfloat16"):
    """out = silu(gate) · up, with gate and up side by side in one tensor [rows, 2 · dim]."""
    return {"x": torch.randn(rows, 2 * dim, dtype=getattr(torch, dtype))}


@silu_and_mul.backend("torch", baseline=True)
def _(x):
    gate, up = x.chunk(2, dim=-1)
    return lambda: F.silu(gate) * up


@silu_and_mul.backend("mine", requires=["triton"])
def _(x, *, block: int = 1024):  # an option of this backend, and so one more axis
    rows, dim = x.shape[0], x.shape[1] // 2
    out = x.new_empty(rows, dim)
    grid = (rows, triton.cdiv(dim, block))

    def step():
        _kernel[grid](x, out, dim, BLOCK=block)
        return out

    return step


@triton.jit
def _kernel(x_ptr, out_ptr, dim, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < dim
    gate = tl.load(x_ptr + row * 2 * dim + columns, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * dim + dim + columns, mask=inside, other=0.0).to(tl.float32)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * dim + columns, out.to(out_ptr.dtype.element_ty), mask=inside)


@silu_and_mul.oracle
def _(x):
    gate, up = x.double().chunk(2, dim=-1)
    return gate / (1 + (-gate).exp()) * up


@silu_and_mul.bytes
def _(rows, dim, dtype):
    return 3 * rows * dim * getattr(torch, dtype).itemsize


@silu_and_mul.metric("rows_per_s", unit="1/s")
def _(cell, seconds):
    return cell.rows / seconds
