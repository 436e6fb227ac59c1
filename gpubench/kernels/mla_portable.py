"""What the portable kernels of latent attention at one new token have in common: a program's heads and queries, its
running softmax over tiles of entries, and what it writes. Which entries a tile has is each kernel's own.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["attend_tile", "load_queries", "place_program", "share_tiles", "write_part"]


@triton.jit
def place_program(heads, SPLITS: tl.constexpr, BLOCK_H: tl.constexpr):
    """The program's sequence, its split, and its heads."""
    # Programs that read the same entries, for other heads, are neighbours: they find them in the L2 cache.
    program = tl.program_id(0)
    blocks_h = tl.cdiv(heads, BLOCK_H)
    block = program % blocks_h
    split = program // blocks_h % SPLITS
    b = (program // blocks_h // SPLITS).to(tl.int64)
    return b, split, block * BLOCK_H + tl.arange(0, BLOCK_H)


@triton.jit
def share_tiles(tiles, split, SPLITS: tl.constexpr):
    """The first tile of a split, and the one behind its last."""
    tiles_per_split = tl.cdiv(tiles, SPLITS)
    first = split * tiles_per_split
    return first, tl.minimum(first + tiles_per_split, tiles)


@triton.jit
def load_queries(ptr, b, h, stride_b, stride_h, heads, SIZE: tl.constexpr):
    """Rows of q̃ or of q_pe, [BLOCK_H, SIZE]; zero beyond the last head."""
    place = tl.arange(0, SIZE)
    return tl.load(ptr + b * stride_b + h[:, None] * stride_h + place[None, :], mask=h[:, None] < heads, other=0.0)


@triton.jit
def attend_tile(state, q_latent, q_rope, latent, rope, live, scale_log2, MAY_BE_EMPTY: tl.constexpr):
    """The running softmax with one tile more; MAY_BE_EMPTY if it, and all before, may have nothing that counts."""
    top, total, acc = state
    scores = tl.dot(q_latent, tl.trans(latent), input_precision="ieee")
    scores = tl.dot(q_rope, tl.trans(rope), scores, input_precision="ieee")
    scores = tl.where(live[None, :], scores * scale_log2, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    finite = tl.where(new_top == float("-inf"), 0.0, new_top) if MAY_BE_EMPTY else new_top
    rescale = tl.exp2(top - finite)
    weights = tl.exp2(scores - finite[:, None])
    total = total * rescale + tl.sum(weights, axis=1)
    acc = tl.dot(weights.to(latent.dtype), latent, acc * rescale[:, None], input_precision="ieee")
    return new_top, total, acc


@triton.jit
def write_part(state, out_ptr, lse_offset, b, split, h, heads, has_tiles, R: tl.constexpr, SPLITS: tl.constexpr):
    """The attention, or a split's part of it as mla_merge.py reads it: one without tiles writes its sum alone."""
    top, total, acc = state
    total = tl.where(total > 0, total, 1.0)  # without a token: acc is 0, top is -inf, and both stay so
    acc = acc / total[:, None]
    row = (b * SPLITS + split) * heads + h
    if SPLITS > 1:
        tl.store(out_ptr + lse_offset + row, top + tl.log2(total), mask=h < heads)
    if SPLITS == 1 or has_tiles:
        target = out_ptr + row[:, None] * R + tl.arange(0, R)[None, :]
        tl.store(target, acc.to(out_ptr.dtype.element_ty), mask=(h < heads)[:, None])
