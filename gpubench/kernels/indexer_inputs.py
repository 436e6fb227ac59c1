"""What a sparse-attention indexer makes of a new token: its key, written to the cache in place, and rotated queries.

    keys[b, lengths[b] − 1] = rotate(LayerNorm(x[b]))
    queries[b, j] ← rotate(queries[b, j]), in place

x [B, D] of one of float32, float16 and bfloat16, rows adjacent; the norm's scale and shift [D]; rotary [2, P / 2],
float32: cos and sin of the new token's angles, which turn the first P of D, halves paired; queries [B, J, D], a
sequence's adjacent; keys [B, columns, D]; lengths int32 [B], the new token counted already, 0 for a padded row. All is
computed in float32 and rounded once.
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
)
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["indexer_inputs"]

_HEADS = 16
"""Queries that a program rotates."""


@triton.jit
def _normalised(x, scale, shift, place, mask, mean, spread):
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(scale + place, mask=mask, other=0.0).to(tl.float32)
    return (value - mean) * spread * weight + tl.load(shift + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _write_key(x, scale, shift, rotary, target, dim, half_size, eps, DIM: tl.constexpr):
    place = tl.arange(0, DIM)
    inside = place < dim
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=0) / dim
    centred = tl.where(inside, value - mean, 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, axis=0) / dim + eps)
    own = _normalised(x, scale, shift, place, inside, mean, spread)
    is_turned = place < 2 * half_size
    is_first = place < half_size
    # The other of each pair, normalised once more rather than moved between threads.
    pair = tl.where(is_first, place + half_size, place - half_size)
    other = _normalised(x, scale, shift, pair, is_turned, mean, spread)
    half = tl.where(is_first, place, place - half_size)
    cos = tl.load(rotary + half, mask=is_turned, other=1.0)
    sin = tl.load(rotary + half_size + half, mask=is_turned, other=0.0)
    turned = own * cos + tl.where(is_first, -other, other) * sin
    tl.store(target + place, turned.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _inputs_kernel(
    x,
    scale,
    shift,
    rotary,
    queries,
    keys,
    lengths,
    x_stride,
    query_stride,
    key_stride,
    heads,
    dim,
    half_size,
    eps,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    if tl.program_id(1) == 0:
        last = tl.load(lengths + b) - 1
        if last >= 0:  # a padded row has no key
            target = keys + b * key_stride + last * dim
            _write_key(x + b * x_stride, scale, shift, rotary, target, dim, half_size, eps, DIM)
    else:
        j = (tl.program_id(1) - 1) * HEADS + tl.arange(0, HEADS)
        half = tl.arange(0, DIM // 2)
        inside = (j[:, None] < heads) & (half[None, :] < half_size)
        cos = tl.load(rotary + half, mask=half < half_size, other=0.0)[None, :]
        sin = tl.load(rotary + half_size + half, mask=half < half_size, other=0.0)[None, :]
        query = queries + b * query_stride + j[:, None] * dim + half[None, :]
        first = tl.load(query, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(query + half_size, mask=inside, other=0.0).to(tl.float32)
        tl.store(query, (first * cos - second * sin).to(queries.dtype.element_ty), mask=inside)
        tl.store(query + half_size, (second * cos + first * sin).to(queries.dtype.element_ty), mask=inside)


_LAUNCH = Launcher(_inputs_kernel)


@as_op("indexer_inputs", mutates=("queries", "keys"))
def indexer_inputs(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    rotary: Tensor,
    queries: Tensor,
    keys: Tensor,
    lengths: Tensor,
    eps: float,
) -> None:
    """Write the key, rotate the queries. Neither allocates nor synchronises; ArgumentError names what doesn't fit."""
    kernel = "indexer_inputs"
    check_launchable(kernel, "keys", keys)
    if keys.dim() != 3 or min(keys.shape) < 1 or not 2 <= keys.shape[2] <= 1024:
        raise ArgumentError(f"{kernel}: keys has shape {tuple(keys.shape)}; wanted (batch, columns, 2 to 1024)")
    batch, _, dim = keys.shape
    check_operand(kernel, "x", x, (batch, dim), like=keys)
    for name, tensor in (("scale", scale), ("shift", shift)):
        check_operand(kernel, name, tensor, (dim,), like=keys)
        check_contiguous(kernel, name, tensor)
    check_adjacent(kernel, "x", x)
    check_contiguous(kernel, "keys", keys)
    heads = queries.shape[1] if queries.dim() == 3 else 0
    check_operand(kernel, "queries", queries, (batch, heads, dim), like=keys)
    if heads < 1 or queries.stride()[1:] != (dim, 1):
        raise ArgumentError(
            f"{kernel}: queries has shape {tuple(queries.shape)} and strides {queries.stride()}; wanted at least one "
            "head, and a sequence's heads adjacent"
        )
    if rotary.dim() != 2 or rotary.shape[0] != 2 or 2 * rotary.shape[1] > dim:
        raise ArgumentError(
            f"{kernel}: rotary has shape {tuple(rotary.shape)}; wanted (2, up to {dim // 2}), pairs of {dim} dimensions"
        )
    check_scratch(kernel, "rotary", rotary, rotary.numel(), like=keys)
    check_index(kernel, "lengths", lengths, (batch,), like=keys)
    _LAUNCH(
        (batch, 1 + triton.cdiv(heads, _HEADS), 1),
        (x, scale, shift, rotary, queries, keys, lengths),
        (x.stride(0), queries.stride(0), keys.stride(0), heads, dim, rotary.shape[1], eps),
        {"DIM": triton.next_power_of_2(dim), "HEADS": _HEADS},
        num_warps=1,
    )
