"""What stands between a projection and block-sparse attention for one token per sequence, fused.

    q | k | v | i_q | i_k = projected[b], by head
    all but v ← RMSNorm over each head ⊙ scale; then the first 2 · HALF dims rotated to the token's position
    query[b] ← q,  index_query[b] ← i_q;  k, v and i_k go to the token's place in the paged caches

projected [rows, (heads + 2 · kv_heads) · dim + (index_heads + 1) · index_dim], a row's elements adjacent; norms: of q
and k [dim] each, of i_q and i_k [index_dim] each. query [rows, heads, dim], index_query [rows, index_heads, index_dim].
k_cache, v_cache [pages, kv_heads, block, dim], index_k [pages, block, index_dim]; block_table int32 [rows, max_blocks]
and lengths int32 [rows], as in sparse_gqa_cache: the token is the last one, at position lengths[b] − 1. All but these
two are float32, float16 or bfloat16, computed in float32. rotary float32 [positions, 2, HALF]: cos and sin of each
position's angles, of which dims i and i + HALF make a pair, as in GPT-NeoX, after Su et al., "RoFormer", 2021. A row
that is empty, or whose position lies beyond the table of blocks or of angles, is left as it is.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import (
    check_adjacent,
    check_contiguous,
    check_launchable,
    check_operand,
    check_scratch,
    last_size,
)
from gpubench.kernels.ops import as_op
from gpubench.kernels.sparse_gqa_cache import check_block, check_table

__all__ = ["sparse_gqa_inputs"]


@triton.jit
def _place(source, scale, angles, target, is_there, eps, DIM: tl.constexpr, HALF: tl.constexpr, TILE: tl.constexpr):
    """One head, normalised and rotated, from `source` to `target`."""
    dims = tl.arange(0, TILE)
    inside = (dims < DIM) & is_there
    is_first = dims < HALF
    is_rotated = dims < 2 * HALF
    partners = tl.where(is_first, dims + HALF, tl.where(is_rotated, dims - HALF, dims))
    own = tl.load(source + dims, mask=inside, other=0.0).to(tl.float32)
    partner = tl.load(source + partners, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(own * own, axis=0) / DIM + eps)
    own *= factor * tl.load(scale + dims, mask=inside, other=0.0).to(tl.float32)
    partner *= factor * tl.load(scale + partners, mask=inside, other=0.0).to(tl.float32)
    turn = tl.where(is_first, dims, dims - HALF)
    cos = tl.load(angles + turn, mask=inside & is_rotated, other=1.0)
    sin = tl.load(angles + HALF + turn, mask=inside & is_rotated, other=0.0)
    rotated = own * cos + tl.where(is_first, -partner, partner) * sin
    tl.store(target + dims, rotated.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _inputs_kernel(
    projected,
    query_norm,
    key_norm,
    index_query_norm,
    index_key_norm,
    rotary,
    block_table,
    lengths,
    query,
    index_query,
    k_cache,
    v_cache,
    index_k,
    projected_stride,
    table_stride,
    query_stride_row,
    query_stride_head,
    index_stride_row,
    index_stride_head,
    k_stride_page,
    k_stride_head,
    k_stride_token,
    v_stride_page,
    v_stride_head,
    v_stride_token,
    index_k_stride_page,
    index_k_stride_token,
    heads,
    kv_heads,
    index_heads,
    limit,
    eps,
    DIM: tl.constexpr,
    INDEX_DIM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    INDEX_TILE: tl.constexpr,
):
    head = tl.program_id(0)  # q, k, v, i_q, i_k
    row = tl.program_id(1).to(tl.int64)
    position = tl.load(lengths + row) - 1
    is_there = (position >= 0) & (position < limit)
    position = tl.where(is_there, position, 0)
    page = tl.load(block_table + row * table_stride + position // BLOCK, mask=is_there, other=0).to(tl.int64)
    slot = (position % BLOCK).to(tl.int64)
    wide = head.to(tl.int64)  # slot and head · stride may exceed 32 bits
    angles = rotary + position.to(tl.int64) * (2 * HALF)
    source = projected + row * projected_stride
    own = source + head * DIM
    if head < heads:
        target = query + row * query_stride_row + wide * query_stride_head
        _place(own, query_norm, angles, target, is_there, eps, DIM, HALF, TILE)
    elif head < heads + kv_heads:
        target = k_cache + page * k_stride_page + (wide - heads) * k_stride_head + slot * k_stride_token
        _place(own, key_norm, angles, target, is_there, eps, DIM, HALF, TILE)
    elif head < heads + 2 * kv_heads:
        target = v_cache + page * v_stride_page + (wide - heads - kv_heads) * v_stride_head + slot * v_stride_token
        dims = tl.arange(0, TILE)
        inside = (dims < DIM) & is_there
        tl.store(target + dims, tl.load(own + dims, mask=inside, other=0.0), mask=inside)
    else:
        index_head = wide - heads - 2 * kv_heads
        own = source + (heads + 2 * kv_heads) * DIM + index_head * INDEX_DIM
        if index_head < index_heads:
            target = index_query + row * index_stride_row + index_head * index_stride_head
            _place(own, index_query_norm, angles, target, is_there, eps, INDEX_DIM, HALF, INDEX_TILE)
        else:
            target = index_k + page * index_k_stride_page + slot * index_k_stride_token
            _place(own, index_key_norm, angles, target, is_there, eps, INDEX_DIM, HALF, INDEX_TILE)


@as_op("sparse_gqa_inputs", mutates=("query", "index_query", "k_cache", "v_cache", "index_k"))
def sparse_gqa_inputs(
    projected: Tensor,
    query_norm: Tensor,
    key_norm: Tensor,
    index_query_norm: Tensor,
    index_key_norm: Tensor,
    rotary: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    query: Tensor,
    index_query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    index_k: Tensor,
    *,
    eps: float = 1e-6,
) -> None:
    """Write queries and index queries, and the new token's keys, values and index keys into the caches.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    block = _check_caches(projected, (query, index_query), (k_cache, v_cache, index_k))
    check_table("sparse_gqa_inputs", block_table, lengths, query.shape[0], like=projected)
    half = _check_scales((query_norm, key_norm, index_query_norm, index_key_norm), rotary, query, index_query)
    (rows, heads, dim), (_, index_heads, index_dim), kv_heads = query.shape, index_query.shape, k_cache.shape[1]
    _inputs_kernel[(heads + 2 * kv_heads + index_heads + 1, rows)](
        projected,
        query_norm,
        key_norm,
        index_query_norm,
        index_key_norm,
        rotary,
        block_table,
        lengths,
        query,
        index_query,
        k_cache,
        v_cache,
        index_k,
        projected.stride(0),
        block_table.stride(0),
        *query.stride()[:2],
        *index_query.stride()[:2],
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        *index_k.stride()[:2],
        heads,
        kv_heads,
        index_heads,
        min(rotary.shape[0], block_table.shape[1] * block),
        eps,
        DIM=dim,
        INDEX_DIM=index_dim,
        HALF=half,
        BLOCK=block,
        TILE=triton.next_power_of_2(dim),
        INDEX_TILE=triton.next_power_of_2(index_dim),
        num_warps=1,
    )


def _check_caches(projected: Tensor, queries: tuple[Tensor, Tensor], caches: tuple[Tensor, Tensor, Tensor]) -> int:
    """Tokens per page; ArgumentError unless what is projected, queries and caches fit one another."""
    kernel = "sparse_gqa_inputs"
    query, index_query = queries
    k_cache, v_cache, index_k = caches
    check_launchable(kernel, "projected", projected)
    for name, tensor in (("query", query), ("index_query", index_query)):
        if tensor.dim() != 3 or min(tensor.shape) < 1:
            raise ArgumentError(f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted (rows, heads, dim)")
    (rows, heads, dim), (_, index_heads, index_dim) = query.shape, index_query.shape
    block = check_block(kernel, "k_cache", k_cache, "pages, kv_heads, block, dim")
    pages, kv_heads = k_cache.shape[:2]
    width = (heads + 2 * kv_heads) * dim + (index_heads + 1) * index_dim
    for name, tensor, shape in (
        ("projected", projected, (rows, width)),
        ("query", query, (rows, heads, dim)),
        ("index_query", index_query, (rows, index_heads, index_dim)),
        ("k_cache", k_cache, (pages, kv_heads, block, dim)),
        ("v_cache", v_cache, (pages, kv_heads, block, dim)),
        ("index_k", index_k, (pages, block, index_dim)),
    ):
        check_operand(kernel, name, tensor, shape, like=projected)
        check_adjacent(kernel, name, tensor)
    return block


def _check_scales(norms: tuple[Tensor, ...], rotary: Tensor, query: Tensor, index_query: Tensor) -> int:
    """Half of what is rotated; ArgumentError unless norms and angles fit the heads."""
    kernel = "sparse_gqa_inputs"
    names = ("query_norm", "key_norm", "index_query_norm", "index_key_norm")
    widths = (query.shape[2], query.shape[2], index_query.shape[2], index_query.shape[2])
    for name, norm, width in zip(names, norms, widths, strict=True):
        check_operand(kernel, name, norm, (width,), like=query)
        check_contiguous(kernel, name, norm)
    half, room = last_size(rotary), min(widths) // 2
    if rotary.dim() != 3 or rotary.shape[1] != 2 or not 1 <= half <= room:
        raise ArgumentError(f"{kernel}: rotary has shape {tuple(rotary.shape)}; wanted (positions, 2, 1 to {room})")
    check_scratch(kernel, "rotary", rotary, rotary.numel(), like=query)
    return half
