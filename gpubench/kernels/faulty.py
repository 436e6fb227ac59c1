"""Kernels that do wrong, for the workload `fault`: what the GPU, Triton and a debugger make of them.

    wild_store     x [n] fp32: ones, `offset` elements away from where they belong
    spin           until flag [1] int32 is set by somebody, or after `most` looks; their number -> out [1] int64
    too_big        x [128, 512] fp16 · x [512, 128] -> out fp32, by one block: 256 KiB of operands, too much for it
    no_power       Triton refuses to compile it: ranges are powers of two

and of two that do right, which work in memory that their caller must keep alive:

    fill_scratch   scratch [n] = 2 · x [n], fp32
    read_scratch   out [n] = scratch [n] / 2 + 1, fp32
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["BLOCK", "fill_scratch", "no_power", "read_scratch", "spin", "too_big", "wild_store"]

BLOCK = 1024


@triton.jit
def wild_store(x, offset, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + offset + i, 1.0, mask=i < n)


@triton.jit
def spin(flag, out, most):
    looks = most * 0  # as wide as `most`
    while (tl.load(flag, volatile=True) == 0) & (looks < most):
        looks += 1
    tl.store(out, looks)


@triton.jit
def too_big(x, out):
    i, k = tl.arange(0, 128), tl.arange(0, 512)
    left = tl.load(x + i[:, None] * 512 + k[None, :])
    right = tl.load(x + k[:, None] * 128 + i[None, :])
    tl.store(out + i[:, None] * 128 + i[None, :], tl.dot(left, right))


@triton.jit
def no_power(x):
    tl.store(x + tl.arange(0, 3), 1.0)


@triton.jit
def fill_scratch(x, scratch, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(scratch + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def read_scratch(scratch, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(scratch + i, mask=i < n) / 2 + 1, mask=i < n)
