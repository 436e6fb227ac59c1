"""Grouped-query attention of one decoded token over a contiguous KV cache, split over its length.

    out[b, h] = softmax over t < lengths[b] of (q[b, h] · keys[b, g, t] · scale) · values[b, g, t],   g = ⌊h / group⌋

q, out [batch, heads, dim]; keys, values [batch or more, kv_heads, capacity, dim], of which the first are meant; group =
heads / kv_heads query heads share a KV head, and one load of it. lengths [batch], int32, on the device; what is beyond
the capacity doesn't count, and a length of 0 gives 0. Operands are float32, float16 or bfloat16, everything else
float32 until the final cast.

One query row per sequence is little to do in parallel, so the cache is split: a program attends to one split of one KV
head, and a second kernel merges the splits, which lie in the caller's scratch as gpubench.kernels.mla_merge has it. How
many follows from shapes alone. After Dao et al., "Flash-Decoding for long-context inference", 2023.

On an NVIDIA H200, 16 query and 2 KV heads × 256 in bfloat16, 8192 tokens: 243 µs for 64 sequences, 70 for 16 and 15 for
one, where a copy of as many bytes takes 251, 63 and 4; torch's attention takes 244 for 64 and 175 for one (within a
captured step, by CUPTI, 2026-11-21).
"""

from __future__ import annotations

from dataclasses import dataclass

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
    check_reach,
    check_scratch,
)
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.gpu import gpu_name, sm_count
from gpubench.kernels.launching import Launcher
from gpubench.kernels.mla_merge import merge_splits, scratch_elements
from gpubench.kernels.ops import as_op

__all__ = ["choose_splits", "gqa_decode", "gqa_decode_scratch"]

DIMS = (16, 32, 64, 128, 256)
MAX_GROUP = 64
_MOST_TOKENS = 128
"""Of a tile."""
LOG2_E = 1.4426950408889634
"""Weights are powers of two."""


@dataclass(frozen=True)
class Tiling:
    """How a program walks its split."""

    tile_bytes: int
    """Of keys, and as many of values, that it takes at a time."""
    num_warps: int
    num_stages: int
    waves: int
    """Programs for each multiprocessor that the splits are to give."""


# What fits the 99 KiB of shared memory that every GPU since compute capability 8.0 has. Not tuned.
_TILING = Tiling(tile_bytes=1 << 15, num_warps=4, num_stages=2, waves=2)

_TILINGS: dict[str, Tiling] = {}


def choose_splits(batch: int, kv_heads: int, capacity: int) -> int:
    """How many splits keep the current GPU busy: a power of two, none of them shorter than 128 tokens."""
    wanted = _tiling().waves * sm_count() // (batch * kv_heads)
    longest = max(1, capacity // 128)
    return 1 << (max(1, min(wanted, longest)).bit_length() - 1)


def gqa_decode_scratch(batch: int, heads: int, kv_heads: int, capacity: int, dim: int) -> int:
    """How many float32 are enough for a launch on such tensors, also of fewer sequences or a smaller capacity."""
    parts = min(_tiling().waves * sm_count() // kv_heads, batch * capacity // 128)  # of all sequences together
    return parts * scratch_elements(1, heads, dim, 2) // 2


def _tiling() -> Tiling:
    return _TILINGS.get(gpu_name(), _TILING)


@triton.jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    lengths_ptr,
    out_ptr,
    scratch_ptr,
    lse_offset,
    q_stride_row,
    q_stride_head,
    k_stride_row,
    k_stride_head,
    k_stride_token,
    v_stride_row,
    v_stride_head,
    v_stride_token,
    capacity,
    scale,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE_GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    STAGES: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    split = tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    heads_total = tl.num_programs(1) * GROUP
    length = tl.minimum(tl.load(lengths_ptr + row), capacity)
    share = tl.cdiv(tl.cdiv(length, SPLITS), TOKENS) * TOKENS
    first = split * share
    last = tl.minimum(first + share, length)

    members = tl.arange(0, TILE_GROUP)
    is_member = members < GROUP
    heads = kv_head * GROUP + members
    dims = tl.arange(0, DIM)
    tokens = tl.arange(0, TOKENS)
    queries = q_ptr + row * q_stride_row + heads[:, None] * q_stride_head + dims[None, :]
    query = tl.load(queries, mask=is_member[:, None], other=0.0)
    start = first.to(tl.int64)
    k_tile = k_ptr + row * k_stride_row + kv_head * k_stride_head + start * k_stride_token
    k_tile += tokens[None, :] * k_stride_token + dims[:, None]
    v_tile = v_ptr + row * v_stride_row + kv_head * v_stride_head + start * v_stride_token
    v_tile += tokens[:, None] * v_stride_token + dims[None, :]

    highest = tl.full((TILE_GROUP,), float("-inf"), tl.float32)
    weights = tl.zeros((TILE_GROUP,), tl.float32)
    total = tl.zeros((TILE_GROUP, DIM), tl.float32)
    for at in tl.range(first, last, TOKENS, num_stages=STAGES):
        inside = at + tokens < last
        k = tl.load(k_tile, mask=inside[None, :], other=0.0)
        # What lies beyond the length may be NaN, which a weight of 0 wouldn't help: it isn't loaded.
        v = tl.load(v_tile, mask=inside[:, None], other=0.0)
        products = tl.dot(query, k, input_precision="ieee") * scale
        products = tl.where(inside[None, :], products, float("-inf"))
        rising = tl.maximum(highest, tl.max(products, axis=1))  # a tile has a token, so it is a number
        weight = tl.exp2(products - rising[:, None])
        fading = tl.exp2(highest - rising)
        total = tl.dot(weight.to(v.dtype), v, total * fading[:, None], input_precision="ieee")
        weights = weights * fading + tl.sum(weight, axis=1)
        highest = rising
        k_tile += TOKENS * k_stride_token
        v_tile += TOKENS * v_stride_token

    norm = tl.where(weights > 0, weights, 1.0)
    result = total / norm[:, None]
    if SPLITS == 1:
        places = row * heads_total + heads
        target = out_ptr + places[:, None] * DIM + dims[None, :]
        tl.store(target, result.to(out_ptr.dtype.element_ty), mask=is_member[:, None])
    else:
        places = (row * SPLITS + split) * heads_total + heads
        tl.store(scratch_ptr + places[:, None] * DIM + dims[None, :], result, mask=is_member[:, None])
        tl.store(scratch_ptr + lse_offset + places, highest + tl.log2(norm), mask=is_member)


_LAUNCH = Launcher(_decode_kernel, is_dependent=True)


@as_op("gqa_decode", mutates=("out", "scratch"))
def gqa_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    out: Tensor,
    scratch: Tensor,
    *,
    softmax_scale: float,
    splits: int | None = None,
) -> None:
    """Write each sequence's attention over the first `lengths` of its cache into `out`.

    The elements along `dim` are adjacent, and `out` is contiguous; other strides are free. `scratch`, float32, has
    `gqa_decode_scratch(…)` elements, or what `splits` takes where they are given. Neither allocates nor
    synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "gqa_decode"
    batch, heads, dim, kv_heads, capacity = _check(q, keys, values, lengths, out)
    if splits is None:
        splits = choose_splits(batch, kv_heads, capacity)
    elif splits < 1:
        raise ArgumentError(f"{kernel}: splits is {splits}; wanted 1 or more")
    check_scratch(kernel, "scratch", scratch, scratch_elements(batch, heads, dim, splits), like=q)
    tiling = _tiling()
    group = heads // kv_heads
    _LAUNCH(
        (splits, kv_heads, batch),
        (q, keys, values, lengths, out, scratch),
        (
            batch * splits * heads * dim,
            *q.stride()[:2],
            *keys.stride()[:3],
            *values.stride()[:3],
            capacity,
            softmax_scale * LOG2_E,
        ),
        {
            "GROUP": group,
            "DIM": dim,
            "SPLITS": splits,
            "TILE_GROUP": max(16, triton.next_power_of_2(group)),
            "TOKENS": min(_MOST_TOKENS, max(16, tiling.tile_bytes // (dim * q.element_size()))),
            "STAGES": tiling.num_stages,
        },
        num_warps=tiling.num_warps,
    )
    if splits > 1:
        merge_splits(scratch, out, splits)


def _check(q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, out: Tensor) -> tuple[int, int, int, int, int]:
    """batch, heads, dim, KV heads and capacity; ArgumentError unless the operands fit one another."""
    kernel = "gqa_decode"
    check_launchable(kernel, "q", q)
    if q.dim() != 3 or min(q.shape) < 1 or q.shape[2] not in DIMS:
        raise ArgumentError(f"{kernel}: q has shape {tuple(q.shape)}; wanted (batch, heads, dim), dim one of {DIMS}")
    batch, heads, dim = q.shape
    if keys.dim() != 4 or keys.shape[1] < 1 or keys.shape[2] < 1:
        raise ArgumentError(
            f"{kernel}: keys has shape {tuple(keys.shape)}; wanted ({batch} or more, kv_heads, capacity, {dim})"
        )
    kv_heads, capacity = keys.shape[1:3]
    if heads % kv_heads or heads // kv_heads > MAX_GROUP:
        raise ArgumentError(
            f"{kernel}: keys has {kv_heads} KV heads for {heads} query heads; "
            f"wanted a divisor that leaves at most {MAX_GROUP} query heads to each"
        )
    for name, tensor in (("keys", keys), ("values", values)):
        check_operand(kernel, name, tensor, (max(batch, len(keys)), kv_heads, capacity, dim), like=q)
    check_operand(kernel, "out", out, (batch, heads, dim), like=q)
    for name, tensor in (("q", q), ("keys", keys), ("values", values)):
        check_adjacent(kernel, name, tensor)
    for name, tensor in (("keys", keys), ("values", values)):
        check_reach(kernel, name, tensor, 2, min(_MOST_TOKENS, capacity))
    check_contiguous(kernel, "out", out)
    check_index(kernel, "lengths", lengths, (batch,), like=q)
    return batch, heads, dim, kv_heads, capacity
