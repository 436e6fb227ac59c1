"""Partial attentions over parts of the keys, merged into one.

    out[b, h] = Σ over s of w_s · partial[b, s, h] / Σ w_s        w_s = 2 ** (lse[b, s, h] − max over s of lse)

partial [B, S, H, R], each normalised by its own sum; lse [B, S, H]: the base-2 logarithm of that sum, with the maximum
in it; −inf where a part had no keys, whose partial is not read. Both lie in one scratch, float32, lse behind partial.
out [B, H, R]; zero where all parts had none. The rescaling is that of Milakov and Gimelshein, "Online normalizer
calculation for softmax", 2018.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.kernels.launching import Launcher

__all__ = ["merge_splits", "scratch_elements"]

_ELEMENTS = 16384
"""Elements of the parts that a program holds at a time."""

_MANY_ROWS = 264
"""From so many rows on a program has all columns of one; fewer would leave multiprocessors idle (H200, 2026-11-21)."""


@triton.jit
def _merge_kernel(
    scratch_ptr,
    out_ptr,
    lse_offset,
    heads,
    R: tl.constexpr,
    SPLITS: tl.constexpr,
    ALL_SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    CHUNK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # of B · H
    b, h = row // heads, row % heads
    first = (b * SPLITS * heads + h).to(tl.int64)  # a part lies `heads` rows behind the one before it
    lse_ptr = scratch_ptr + lse_offset
    r = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    s = tl.arange(0, ALL_SPLITS)
    lse = tl.load(lse_ptr + first + s * heads, mask=s < SPLITS, other=float("-inf"))
    top = tl.max(lse, axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp2(lse - top), axis=0)
    acc = tl.zeros((BLOCK_R,), dtype=tl.float32)
    for start in range(0, SPLITS, CHUNK):
        part = start + tl.arange(0, CHUNK)
        rows = first + part * heads
        weight = tl.exp2(tl.load(lse_ptr + rows, mask=part < SPLITS, other=float("-inf")) - top)
        partial = tl.load(scratch_ptr + rows[:, None] * R + r[None, :], mask=(weight > 0)[:, None], other=0.0)
        acc += tl.sum(partial * weight[:, None], axis=0)
    acc = acc / tl.where(total > 0, total, 1.0)
    tl.store(out_ptr + row * R + r, acc.to(out_ptr.dtype.element_ty))


def scratch_elements(batch: int, heads: int, kv_lora: int, splits: int) -> int:
    """How many float32 the parts and their sums take; none if there is one part, which is the result."""
    return 0 if splits == 1 else batch * splits * heads * (kv_lora + 1)


_LAUNCH = Launcher(_merge_kernel)


def merge_splits(scratch: Tensor, out: Tensor, splits: int) -> None:
    """Write the merged parts into `out`, contiguous as is the scratch. The caller has checked both."""
    batch, heads, kv_lora = out.shape
    block_r = kv_lora if batch * heads >= _MANY_ROWS else min(kv_lora, 128)
    all_splits = 1 << (splits - 1).bit_length()  # triton.next_power_of_2 takes 1.5 µs
    _LAUNCH(
        (batch * heads, kv_lora // block_r, 1),
        (scratch, out),
        (batch * splits * heads * kv_lora, heads),
        {
            "R": kv_lora,
            "SPLITS": splits,
            "ALL_SPLITS": all_splits,
            "BLOCK_R": block_r,
            "CHUNK": min(all_splits, _ELEMENTS // block_r),
        },
        num_warps=4,
    )
