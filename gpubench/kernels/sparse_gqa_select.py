"""Block choice of block-sparse attention: per row and KV head the best-scored blocks, the last one always among them.

scores float32 [rows, heads, max_blocks], of which a row's first n = ⌈lengths[b] / block⌉ count; lengths int32 [rows];
blocks int32 [rows, heads, kept]. Into `blocks` go the row's last block, n − 1, which holds the token that asks, and the
kept − 1 blocks with the highest scores besides; equal scores are taken from the first block on. A row of n ≤ kept
blocks gets all of them in order, its scores unread, then −1.

One program per row and head. A score and its block become one 64-bit integer that orders as the pair does, so that the
order is total and a bitonic network finds the best. It is small: blocks are dealt to groups, only each group's best
takes part, and then the blocks of the `kept` winning groups. No block elsewhere can be among the best, for each of
those groups has one that is better.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_launchable, last_size
from gpubench.kernels.ops import as_op
from gpubench.kernels.sparse_gqa_cache import BLOCKS, check_int32

__all__ = ["MAX_BLOCKS", "MAX_KEPT", "sparse_gqa_select"]

MAX_KEPT = 64

MAX_BLOCKS = 16384
"""Scores that one program holds: two million tokens in blocks of 128."""

# By the largest number of scores it serves: groups, and warps. Measured on an NVIDIA H200, November 2026.
_NETWORKS = ((256, 256, 4), (1024, 512, 4), (8192, 1024, 8), (MAX_BLOCKS, 1024, 16))


@triton.jit
def _order(score, block, count):
    """Integers that compare as (is last, score, −block) do; those beyond `count` are below all others."""
    bits = tl.where(score == 0, 0.0, score).to(tl.int32, bitcast=True)  # a zero's sign doesn't count
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # a negative float's bits fall as it rises
    # A GPU's NaN has the highest bits of all, and comes behind the last block all the same.
    rising = tl.where(block == count - 1, 0x7FFFFFFF, tl.minimum(rising, 0x7FFFFFFE))
    key = (rising.to(tl.int64) << 32) | (0x7FFFFFFF - block)
    return tl.where(block < count, key, -(2**63))


@triton.jit
def _block_of(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def _select_kernel(
    scores,
    lengths,
    blocks,
    score_stride_row,
    score_stride_head,
    block_stride_row,
    block_stride_head,
    BLOCK: tl.constexpr,
    KEPT: tl.constexpr,
    GROUPS: tl.constexpr,
    MEMBERS: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    count = tl.cdiv(tl.load(lengths + row), BLOCK)
    slots = tl.arange(0, KEPT)
    out = blocks + row * block_stride_row + head * block_stride_head + slots
    if count <= KEPT:
        tl.store(out, tl.where(slots < count, slots, -1))
        return
    source = scores + row * score_stride_row + head * score_stride_head
    # Block j is member ⌊j / GROUPS⌋ of group j mod GROUPS: any KEPT + 1 blocks in a row are in as many groups.
    members = tl.arange(0, MEMBERS) * GROUPS
    block = members[:, None] + tl.arange(0, GROUPS)[None, :]
    keys = _order(tl.load(source + block, mask=block < count, other=0.0), block, count)
    best = tl.topk(tl.max(keys, axis=0), KEPT)
    if MEMBERS > 1:
        block = (_block_of(best) & (GROUPS - 1))[:, None] + members[None, :]
        keys = _order(tl.load(source + block, mask=block < count, other=0.0), block, count)
        best = tl.topk(tl.reshape(keys, [KEPT * MEMBERS]), KEPT)
    tl.store(out, _block_of(best))


@as_op("sparse_gqa_select", mutates=("blocks",))
def sparse_gqa_select(scores: Tensor, lengths: Tensor, blocks: Tensor, block: int) -> None:
    """Write each row's and head's choice of blocks, a block being `block` tokens.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    _check(scores, lengths, blocks, block)
    rows, heads, max_blocks = scores.shape
    kept = blocks.shape[-1]
    held = max(kept, triton.next_power_of_2(max_blocks))
    groups, warps = next((groups, warps) for largest, groups, warps in _NETWORKS if held <= largest)
    groups = min(held, groups)
    _select_kernel[(heads, rows)](
        scores,
        lengths,
        blocks,
        scores.stride(0),
        scores.stride(1),
        blocks.stride(0),
        blocks.stride(1),
        BLOCK=block,
        KEPT=kept,
        GROUPS=groups,
        MEMBERS=held // groups,
        num_warps=min(warps, max(1, held // 64)),
    )


def _check(scores: Tensor, lengths: Tensor, blocks: Tensor, block: int) -> None:
    """ArgumentError unless the operands fit one another."""
    kernel = "sparse_gqa_select"
    check_launchable(kernel, "scores", scores)
    if scores.dtype != torch.float32 or scores.dim() != 3 or min(scores.shape) < 1 or scores.shape[2] > MAX_BLOCKS:
        raise ArgumentError(
            f"{kernel}: scores is {scores.dtype} {tuple(scores.shape)}; "
            f"wanted torch.float32 (rows, heads, max_blocks), at most {MAX_BLOCKS} blocks"
        )
    rows, heads = scores.shape[:2]
    if block not in BLOCKS:
        raise ArgumentError(f"{kernel}: block is {block}; wanted one of {', '.join(map(str, BLOCKS))} tokens")
    if lengths.shape != (rows,):
        raise ArgumentError(f"{kernel}: lengths has shape {tuple(lengths.shape)}; wanted ({rows},)")
    kept = last_size(blocks)
    if blocks.shape != (rows, heads, kept) or not 2 <= kept <= MAX_KEPT or kept & (kept - 1):
        raise ArgumentError(
            f"{kernel}: blocks has shape {tuple(blocks.shape)}; wanted ({rows}, {heads}, kept), "
            f"kept a power of two from 2 to {MAX_KEPT}"
        )
    for name, tensor in (("lengths", lengths), ("blocks", blocks)):
        check_int32(kernel, name, tensor, like=scores)
    check_adjacent(kernel, "scores", scores)
