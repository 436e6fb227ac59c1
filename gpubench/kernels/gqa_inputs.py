"""What stands between a projection and grouped-query attention for one token per sequence, fused.

    q, k ← RMSNorm over each head ⊙ scale, where there are scales; then the first 2 · HALF dims rotated to `positions`
    keys[b, :, positions[b]] ← k,   values[b, :, positions[b]] ← v

projected [batch, width]: queries of all heads, then whatever else there is, then keys and values of all KV heads, a
head's `dim` adjacent. query_norm, key_norm [dim] or None. query [batch, heads, dim]; keys, values [batch or more,
kv_heads, capacity, dim]. All of these float32, float16 or bfloat16, computed in float32. rotary [positions, 2, HALF],
float32: cos and sin of each position's angles, of which dims i and i + HALF make a pair, as in GPT-NeoX, after Su et
al., "RoFormer", 2021. positions [batch], int32, on the device; a sequence whose position is negative, or lies beyond
the table or the cache, is left as it is.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import (
    check_adjacent,
    check_contiguous,
    check_index,
    check_launchable,
    check_operand,
    check_scratch,
    last_size,
)
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["gqa_inputs"]

_FROM, _MANY = 256, 16
"""From so many tokens on, which are a prompt's, a program has so many of one head; of fewer, one."""


@triton.jit
def _inputs_kernel(
    projected_ptr,
    query_norm_ptr,
    key_norm_ptr,
    rotary_ptr,
    positions_ptr,
    query_ptr,
    keys_ptr,
    values_ptr,
    projected_stride,
    query_stride_row,
    query_stride_head,
    k_stride_row,
    k_stride_head,
    k_stride_token,
    v_stride_row,
    v_stride_head,
    v_stride_token,
    heads,
    kv_heads,
    batch,
    first_key,
    limit,
    eps,
    DIM: tl.constexpr,
    HALF: tl.constexpr,
    HAS_NORMS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    head = tl.program_id(0)  # queries, keys, values
    numbers = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    positions = tl.load(positions_ptr + numbers, mask=numbers < batch, other=-1).to(tl.int64)[:, None]
    rows = numbers.to(tl.int64)[:, None]
    wide = head.to(tl.int64)  # head · stride may exceed 32 bits
    dims = tl.arange(0, BLOCK)[None, :]
    inside = (dims < DIM) & (positions >= 0) & (positions < limit)
    is_query = head < heads
    own = tl.where(is_query, head, head - heads + first_key)
    source = projected_ptr + rows * projected_stride + own * DIM
    x = tl.load(source + dims, mask=inside, other=0.0)

    if head >= heads + kv_heads:
        kv_head = wide - heads - kv_heads
        target = values_ptr + rows * v_stride_row + kv_head * v_stride_head + positions * v_stride_token
        tl.store(target + dims, x, mask=inside)
    else:
        is_first = dims < HALF
        is_rotated = dims < 2 * HALF
        partners = tl.where(is_first, dims + HALF, tl.where(is_rotated, dims - HALF, dims))
        own_value = x.to(tl.float32)
        partner = tl.load(source + partners, mask=inside, other=0.0).to(tl.float32)
        if HAS_NORMS:
            scale = tl.where(is_query, query_norm_ptr, key_norm_ptr)
            factor = tl.rsqrt(tl.sum(own_value * own_value, axis=1) / DIM + eps)[:, None]
            own_value *= factor * tl.load(scale + dims, mask=dims < DIM, other=0.0).to(tl.float32)
            partner *= factor * tl.load(scale + partners, mask=dims < DIM, other=0.0).to(tl.float32)
        angles = rotary_ptr + positions * (2 * HALF) + tl.where(is_first, dims, dims - HALF)
        cos = tl.load(angles, mask=inside & is_rotated, other=1.0)
        sin = tl.load(angles + HALF, mask=inside & is_rotated, other=0.0)
        rotated = own_value * cos + tl.where(is_first, -partner, partner) * sin
        if is_query:
            target = query_ptr + rows * query_stride_row + wide * query_stride_head
            tl.store(target + dims, rotated.to(query_ptr.dtype.element_ty), mask=inside)
        else:
            kv_head = wide - heads
            target = keys_ptr + rows * k_stride_row + kv_head * k_stride_head + positions * k_stride_token
            tl.store(target + dims, rotated.to(keys_ptr.dtype.element_ty), mask=inside)


_LAUNCH = Launcher(_inputs_kernel, is_dependent=True)


@as_op("gqa_inputs", mutates=("query", "keys", "values"))
def gqa_inputs(
    projected: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    rotary: Tensor,
    positions: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    eps: float = 1e-6,
) -> None:
    """Write the queries into `query`, and the new token's keys and values into the cache.

    The elements along `dim` are adjacent; other strides are free. Neither allocates nor synchronises. ArgumentError
    names an argument that doesn't fit.
    """
    heads, kv_heads, dim, half = _check(projected, (query_norm, key_norm), rotary, positions, (query, keys, values))
    batch = query.shape[0]
    block = triton.next_power_of_2(dim)
    rows = _MANY if batch >= _FROM else 1
    _LAUNCH(
        (heads + 2 * kv_heads, triton.cdiv(batch, rows), 1),
        (
            projected,
            projected if query_norm is None else query_norm,
            projected if key_norm is None else key_norm,
            rotary,
            positions,
            query,
            keys,
            values,
        ),
        (
            projected.stride(0),
            *query.stride()[:2],
            *keys.stride()[:3],
            *values.stride()[:3],
            heads,
            kv_heads,
            batch,
            projected.shape[1] // dim - 2 * kv_heads,
            min(rotary.shape[0], keys.shape[2]),
            eps,
        ),
        {"DIM": dim, "HALF": half, "HAS_NORMS": query_norm is not None, "BLOCK": block, "ROWS": rows},
        num_warps=1 if rows == 1 and block <= 256 else 4,
    )


def _check(
    projected: Tensor,
    norms: tuple[Tensor | None, Tensor | None],
    rotary: Tensor,
    positions: Tensor,
    written: tuple[Tensor, Tensor, Tensor],
) -> tuple[int, int, int, int]:
    """Heads, KV heads, their dim, and half of what is rotated; ArgumentError unless the operands fit one another."""
    kernel = "gqa_inputs"
    query, keys, values = written
    check_launchable(kernel, "projected", projected)
    if query.dim() != 3 or keys.dim() != 4 or min(query.shape) < 1:
        raise ArgumentError(
            f"{kernel}: query has shape {tuple(query.shape)} and keys {tuple(keys.shape)}; "
            "wanted (batch, heads, dim) and (batch or more, kv_heads, capacity, dim)"
        )
    (batch, heads, dim), (kv_heads, capacity) = query.shape, keys.shape[1:3]
    width = last_size(projected)
    if projected.shape != (batch, width) or width % dim or width < (heads + 2 * kv_heads) * dim:
        raise ArgumentError(
            f"{kernel}: projected has shape {tuple(projected.shape)}; wanted ({batch}, a multiple of {dim}, "
            f"{(heads + 2 * kv_heads) * dim} or more)"
        )
    check_operand(kernel, "query", query, (batch, heads, dim), like=projected)
    for name, tensor in (("keys", keys), ("values", values)):
        check_operand(kernel, name, tensor, (max(batch, len(keys)), kv_heads, capacity, dim), like=projected)
    for name, tensor in (("projected", projected), ("query", query), ("keys", keys), ("values", values)):
        check_adjacent(kernel, name, tensor)
    if (norms[0] is None) != (norms[1] is None):
        raise ArgumentError(f"{kernel}: query_norm and key_norm are wanted both or neither")
    for name, norm in zip(("query_norm", "key_norm"), norms, strict=True):
        if norm is not None:
            check_operand(kernel, name, norm, (dim,), like=projected)
            check_contiguous(kernel, name, norm)
    half = last_size(rotary)
    if rotary.dim() != 3 or rotary.shape[1] != 2 or 2 * half > dim:
        raise ArgumentError(
            f"{kernel}: rotary has shape {tuple(rotary.shape)}; wanted (positions, 2, at most {dim // 2})"
        )
    check_scratch(kernel, "rotary", rotary, rotary.numel(), like=projected)
    check_index(kernel, "positions", positions, (batch,), like=projected)
    return heads, kv_heads, dim, half
