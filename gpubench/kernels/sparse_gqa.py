"""Grouped-query attention of one decoded token over chosen blocks of its KV cache.

    out[b, h] = softmax over t of (q[b, h] · k[t, g] · dim^-½) · v[t, g]
    g = ⌊h / group⌋, t in blocks[b, g], t < lengths[b]

q, out [rows, heads, dim]; k_cache, v_cache [pages, kv_heads, block, dim]; group = heads / kv_heads query heads share a
KV head. blocks int32 [rows, kv_heads, kept]: numbers of a row's blocks, each at most once, −1 where there are fewer;
block_table int32 [rows, max_blocks] and lengths int32 [rows], as in sparse_gqa_cache. Operands are float32, float16 or
bfloat16, everything else float32 until the final cast. A row of length 0 gives 0. As MiniMax-M3's configuration has it:
64 query and 4 KV heads × 128, 16 blocks of 128.

A KV head's chosen tokens are few (2048) and there may be few rows, so they are split: a program attends to one split
and writes its output and the logarithm of its weights' sum, a second kernel merges the splits. The scratch says how
many: partial float32 [rows, heads, splits, dim], partial_lse float32 [rows, heads, splits]. A single split writes
`out` itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_launchable, check_operand, check_reach, last_size
from gpubench.kernels.gpu import gpu_name, sm_count
from gpubench.kernels.ops import as_op
from gpubench.kernels.sparse_gqa_cache import check_block, check_int32, check_table

__all__ = ["choose_splits", "sparse_gqa_attend"]

DIMS = (16, 32, 64, 128)
MAX_GROUP = 64


@dataclass(frozen=True)
class Tiling:
    """How a program walks its split, and what it gets."""

    tokens: int
    """Of a tile; a block is cut into such tiles."""
    num_warps: int
    num_stages: int


# By bytes per element. Each fits the 99 KiB of shared memory that every GPU since compute capability 8.0 has.
_TILINGS = {
    2: Tiling(tokens=64, num_warps=4, num_stages=5),
    4: Tiling(tokens=32, num_warps=4, num_stages=3),
}

# Where there are more programs than find room at once: deeper, with two to a multiprocessor instead of three, so that
# 512 of them end in two full waves (137 µs, not 154). By GPU: from how many programs on. Measured in November 2026.
_CROWDED = {"NVIDIA H200": (397, Tiling(tokens=64, num_warps=4, num_stages=8))}


def choose_splits(rows: int, kv_heads: int, kept: int) -> int:
    """How many splits keep the current GPU busy: a power of two, at most one per chosen block.

    Two programs to a multiprocessor, but one split, with nothing to merge, where that alone leaves few of them idle.
    Measured on an NVIDIA H200, November 2026.
    """
    programs, multiprocessors = rows * kv_heads, sm_count()
    if 10 * programs >= 9 * multiprocessors:
        return 1
    return min(kept & -kept, 1 << ((2 * multiprocessors // programs).bit_length() - 1))


def _choose_tiling(programs: int, itemsize: int) -> Tiling:
    crowd, deeper = _CROWDED.get(gpu_name(), (0, None))
    return deeper if deeper and itemsize == 2 and programs >= crowd else _TILINGS[itemsize]


@triton.jit
def _attend_kernel(
    q,
    k_cache,
    v_cache,
    blocks,
    block_table,
    lengths,
    out,
    partial,
    partial_lse,
    q_stride_row,
    q_stride_head,
    k_stride_page,
    k_stride_head,
    k_stride_token,
    v_stride_page,
    v_stride_head,
    v_stride_token,
    blocks_stride_row,
    blocks_stride_head,
    table_stride,
    out_stride_row,
    out_stride_head,
    heads_total,
    scale,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    KEPT: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE_GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
):
    split = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    length = tl.load(lengths + row)
    members = tl.arange(0, TILE_GROUP)
    heads = kv_head * GROUP + members
    dims = tl.arange(0, DIM)
    tokens = tl.arange(0, TOKENS)
    is_member = (members < GROUP)[:, None]
    query = tl.load(q + row * q_stride_row + heads[:, None] * q_stride_head + dims[None, :], mask=is_member, other=0.0)
    k_head = k_cache + kv_head * k_stride_head + tokens[None, :] * k_stride_token + dims[:, None]
    v_head = v_cache + kv_head * v_stride_head + tokens[:, None] * v_stride_token + dims[None, :]
    table = block_table + row * table_stride
    # A split takes whole blocks, and a row's blocks are dealt from the first on: those that lack are at the end.
    chosen = blocks + row * blocks_stride_row + kv_head * blocks_stride_head + split * (KEPT // SPLITS)

    highest = tl.full((TILE_GROUP,), float("-inf"), tl.float32)
    weights = tl.zeros((TILE_GROUP,), tl.float32)
    total = tl.zeros((TILE_GROUP, DIM), tl.float32)
    for step in tl.range(0, (KEPT // SPLITS) * (BLOCK // TOKENS)):
        block = tl.load(chosen + step // (BLOCK // TOKENS))
        first = (step % (BLOCK // TOKENS)) * TOKENS
        inside = (block >= 0) & (block * BLOCK + first + tokens < length)
        page = tl.load(table + tl.maximum(block, 0)).to(tl.int64)
        k = tl.load(k_head + page * k_stride_page + first * k_stride_token, mask=inside[None, :], other=0.0)
        products = tl.dot(query, k, input_precision="ieee") * scale
        products = tl.where(inside[None, :], products, float("-inf"))
        rising = tl.maximum(highest, tl.max(products, axis=1))
        anchor = tl.where(rising == float("-inf"), 0.0, rising)  # nothing seen yet: −inf − −inf would be NaN
        weight = tl.exp2(products - anchor[:, None])
        fading = tl.exp2(highest - anchor)
        # Where a page holds NaN beyond the length, a weight of 0 wouldn't help: those values aren't loaded.
        v = tl.load(v_head + page * v_stride_page + first * v_stride_token, mask=inside[:, None], other=0.0)
        total = tl.dot(weight.to(v.dtype), v, total * fading[:, None], input_precision="ieee")
        weights = weights * fading + tl.sum(weight, axis=1)
        highest = rising

    result = total / tl.where(weights > 0, weights, 1.0)[:, None]
    if SPLITS == 1:
        target = out + row * out_stride_row + heads[:, None] * out_stride_head + dims[None, :]
        tl.store(target, result.to(out.dtype.element_ty), mask=is_member)
    else:
        place = (row * heads_total + heads) * SPLITS + split
        tl.store(partial + place[:, None] * DIM + dims[None, :], result, mask=is_member)
        tl.store(partial_lse + place, highest + tl.log2(tl.where(weights > 0, weights, 1.0)), mask=members < GROUP)


@triton.jit
def _merge_kernel(
    partial,
    partial_lse,
    out,
    out_stride_row,
    out_stride_head,
    heads_total,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    head = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    place = (row * heads_total + head) * SPLITS + tl.arange(0, SPLITS)
    dims = tl.arange(0, DIM)
    lse = tl.load(partial_lse + place)
    highest = tl.max(lse, axis=0)
    weight = tl.exp2(lse - tl.where(highest == float("-inf"), 0.0, highest))
    parts = tl.load(partial + place[:, None] * DIM + dims[None, :])
    total = tl.sum(weight, axis=0)
    merged = tl.sum(parts * weight[:, None], axis=0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * out_stride_row + head * out_stride_head + dims, merged.to(out.dtype.element_ty))


@as_op("sparse_gqa_attend", mutates=("out", "partial", "partial_lse"))
def sparse_gqa_attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    blocks: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    out: Tensor,
    partial: Tensor,
    partial_lse: Tensor,
) -> None:
    """Write the attention of each row over its chosen blocks into `out`, by way of the scratch `partial…`.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    rows, heads, dim, kv_heads, block = _check_cache(q, k_cache, v_cache)
    check_table("sparse_gqa_attend", block_table, lengths, rows, like=q)
    kept, splits = _check_outputs(q, blocks, (out, partial, partial_lse), kv_heads)
    tiling = _choose_tiling(rows * kv_heads * splits, q.element_size())
    _attend_kernel[(splits, kv_heads, rows)](
        q,
        k_cache,
        v_cache,
        blocks,
        block_table,
        lengths,
        out,
        partial,
        partial_lse,
        *q.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *blocks.stride()[:2],
        block_table.stride(0),
        *out.stride()[:2],
        heads,
        dim**-0.5 * 1.4426950408889634,  # weights are powers of two
        GROUP=heads // kv_heads,
        DIM=dim,
        BLOCK=block,
        KEPT=kept,
        SPLITS=splits,
        TILE_GROUP=max(16, triton.next_power_of_2(heads // kv_heads)),
        TOKENS=min(tiling.tokens, block),
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
    )
    if splits > 1:
        _merge_kernel[(heads, rows)](
            partial, partial_lse, out, *out.stride()[:2], heads, DIM=dim, SPLITS=splits, num_warps=1
        )


def _check_cache(q: Tensor, k_cache: Tensor, v_cache: Tensor) -> tuple[int, int, int, int, int]:
    """rows, heads, dim, KV heads and block; ArgumentError unless query and caches fit one another."""
    kernel = "sparse_gqa_attend"
    check_launchable(kernel, "q", q)
    if q.dim() != 3 or min(q.shape) < 1 or q.shape[2] not in DIMS:
        raise ArgumentError(
            f"{kernel}: q has shape {tuple(q.shape)}; wanted (rows, heads, dim), dim one of {', '.join(map(str, DIMS))}"
        )
    rows, heads, dim = q.shape
    block = check_block(kernel, "k_cache", k_cache, "pages, kv_heads, block, dim")
    pages, kv_heads = k_cache.shape[:2]
    if heads % kv_heads or heads // kv_heads > MAX_GROUP:
        raise ArgumentError(
            f"{kernel}: k_cache has {kv_heads} KV heads for {heads} query heads; "
            f"wanted a divisor that leaves at most {MAX_GROUP} query heads to each"
        )
    check_operand(kernel, "k_cache", k_cache, (pages, kv_heads, block, dim), like=q)
    check_operand(kernel, "v_cache", v_cache, tuple(k_cache.shape), like=q)
    for name, tensor in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache)):
        check_adjacent(kernel, name, tensor)
    for name, tensor in (("k_cache", k_cache), ("v_cache", v_cache)):
        check_reach(kernel, name, tensor, 2, block)
    return rows, heads, dim, kv_heads, block


def _check_outputs(q: Tensor, blocks: Tensor, outputs: tuple[Tensor, Tensor, Tensor], kv_heads: int) -> tuple[int, int]:
    """How many blocks are kept, and splits; ArgumentError unless choice, output and scratch fit the query."""
    kernel = "sparse_gqa_attend"
    out, partial, partial_lse = outputs
    rows, heads, dim = q.shape
    kept = last_size(blocks)
    if blocks.shape != (rows, kv_heads, kept) or kept < 1:
        raise ArgumentError(f"{kernel}: blocks has shape {tuple(blocks.shape)}; wanted ({rows}, {kv_heads}, kept)")
    check_int32(kernel, "blocks", blocks, like=q)
    check_operand(kernel, "out", out, (rows, heads, dim), like=q)
    check_adjacent(kernel, "out", out)
    splits = last_size(partial_lse)
    if splits < 1 or splits & (splits - 1) or kept % splits:
        raise ArgumentError(
            f"{kernel}: partial_lse has shape {tuple(partial_lse.shape)}; "
            f"wanted ({rows}, {heads}, splits), splits a power of two that divides the {kept} kept blocks"
        )
    for name, tensor, shape in (
        ("partial", partial, (rows, heads, splits, dim)),
        ("partial_lse", partial_lse, (rows, heads, splits)),
    ):
        if tensor.shape != shape or tensor.dtype != torch.float32 or tensor.device != q.device:
            raise ArgumentError(
                f"{kernel}: {name} is {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}; "
                f"wanted torch.float32 {shape} on {q.device}"
            )
        if not tensor.is_contiguous():
            raise ArgumentError(f"{kernel}: {name} has strides {tensor.stride()}; wanted a contiguous tensor")
    return kept, splits
