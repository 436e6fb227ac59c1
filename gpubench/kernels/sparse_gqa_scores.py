"""Block scores of block-sparse attention: how well a block's best token answers each index head's query.

    score[b, h, j] = max over tokens t of block j, t < lengths[b], of index_q[b, h] · index_k[t] · dim^-½

index_q [rows, heads, dim], one head per KV head; index_k [pages, block, dim], shared by the heads; block_table int32
[rows, max_blocks] and lengths int32 [rows], as in sparse_gqa_cache; scores float32 [rows, heads, max_blocks]. The
operands are float32, float16 or bfloat16, products are summed in float32. As MiniMax-M3's configuration has it: 4 index
heads × 128, blocks of 128.

A row of at most `kept` blocks keeps all of them, so it isn't scored: its scores stay as they were, as do those of
blocks that lie beyond a row's length.

It reads block · dim elements once per block and computes next to nothing: a stream. Every program walks a few blocks of
one row, so that the next block is under way while one is multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_launchable, check_operand, check_reach
from gpubench.kernels.gpu import sm_count
from gpubench.kernels.ops import as_op
from gpubench.kernels.sparse_gqa_cache import check_block, check_table

__all__ = ["sparse_gqa_scores"]

MAX_HEADS = 64
DIMS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Walk:
    """What a program gets, and how many programs a multiprocessor should get before they walk more blocks each."""

    programs_per_sm: int
    longest: int
    """Blocks that one program walks at most."""
    num_warps: int
    num_stages: int


# By bytes per element; 2 was measured on an NVIDIA H200, November 2026. Each fits the 99 KiB of shared memory that
# every GPU since compute capability 8.0 has.
_WALKS = {
    2: Walk(programs_per_sm=2, longest=4, num_warps=4, num_stages=5),
    4: Walk(programs_per_sm=8, longest=8, num_warps=8, num_stages=1),
}


@triton.jit
def _scores_kernel(
    index_q,
    index_k,
    block_table,
    lengths,
    scores,
    q_stride_row,
    q_stride_head,
    k_stride_page,
    k_stride_token,
    table_stride,
    score_stride_row,
    score_stride_head,
    kept,
    scale,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    WALK: tl.constexpr,
    TILE_HEADS: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + row)
    blocks = tl.cdiv(length, BLOCK)
    first = tl.program_id(0) * WALK
    if (blocks <= kept) | (first >= blocks):
        return
    heads = tl.arange(0, TILE_HEADS)
    dims = tl.arange(0, DIM)
    tokens = tl.arange(0, BLOCK)
    q = tl.load(
        index_q + row * q_stride_row + heads[:, None] * q_stride_head + dims[None, :],
        mask=heads[:, None] < HEADS,
        other=0.0,
    )
    offsets = tokens[None, :] * k_stride_token + dims[:, None]
    out = scores + row * score_stride_row + heads * score_stride_head
    for block in tl.range(first, min(first + WALK, blocks)):
        page = tl.load(block_table + row * table_stride + block).to(tl.int64)
        k = tl.load(index_k + page * k_stride_page + offsets)
        products = tl.dot(q, k, input_precision="ieee")
        # Beyond the length lies what a page held before, NaN perhaps: it is replaced, not multiplied by zero.
        products = tl.where((block * BLOCK + tokens < length)[None, :], products, float("-inf"))
        tl.store(out + block, tl.max(products, axis=1) * scale, mask=heads < HEADS)


@as_op("sparse_gqa_scores", mutates=("scores",))
def sparse_gqa_scores(
    index_q: Tensor, index_k: Tensor, block_table: Tensor, lengths: Tensor, scores: Tensor, kept: int
) -> None:
    """Write the scores of every block of the rows that have more than `kept` blocks.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    rows, heads, dim, block = _check(index_q, index_k, block_table, lengths, scores)
    max_blocks = block_table.shape[1]
    if max_blocks <= kept:
        return  # no row can have more
    walk = _WALKS[index_q.element_size()]
    share = rows * max_blocks // (walk.programs_per_sm * sm_count())
    length = min(walk.longest, triton.next_power_of_2(max(1, share)))
    _scores_kernel[(triton.cdiv(max_blocks, length), rows)](
        index_q,
        index_k,
        block_table,
        lengths,
        scores,
        index_q.stride(0),
        index_q.stride(1),
        index_k.stride(0),
        index_k.stride(1),
        block_table.stride(0),
        scores.stride(0),
        scores.stride(1),
        kept,
        dim**-0.5,
        HEADS=heads,
        DIM=dim,
        BLOCK=block,
        WALK=length,
        TILE_HEADS=max(16, triton.next_power_of_2(heads)),
        num_warps=walk.num_warps,
        num_stages=walk.num_stages,
    )


def _check(
    index_q: Tensor, index_k: Tensor, block_table: Tensor, lengths: Tensor, scores: Tensor
) -> tuple[int, int, int, int]:
    """rows, heads, dim and block; ArgumentError unless the operands fit one another."""
    kernel = "sparse_gqa_scores"
    check_launchable(kernel, "index_q", index_q)
    if index_q.dim() != 3 or not 1 <= index_q.shape[1] <= MAX_HEADS or index_q.shape[2] not in DIMS:
        raise ArgumentError(
            f"{kernel}: index_q has shape {tuple(index_q.shape)}; wanted (rows, heads, dim), 1 to {MAX_HEADS} heads, "
            f"dim one of {', '.join(map(str, DIMS))}"
        )
    rows, heads, dim = index_q.shape
    block = check_block(kernel, "index_k", index_k, "pages, block, dim")
    check_operand(kernel, "index_k", index_k, (index_k.shape[0], block, dim), like=index_q)
    check_table(kernel, block_table, lengths, rows, like=index_q)
    max_blocks = block_table.shape[1]
    if scores.shape != (rows, heads, max_blocks) or scores.dtype != torch.float32 or scores.device != index_q.device:
        raise ArgumentError(
            f"{kernel}: scores is {scores.dtype} {tuple(scores.shape)} on {scores.device}; "
            f"wanted torch.float32 {(rows, heads, max_blocks)} on {index_q.device}"
        )
    for name, tensor in (("index_q", index_q), ("index_k", index_k), ("scores", scores)):
        check_adjacent(kernel, name, tensor)
    check_reach(kernel, "index_k", index_k, 1, block)
    return rows, heads, dim, block
