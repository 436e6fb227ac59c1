"""Multi-head latent attention of one new token per sequence to a selection of its tokens, over a paged cache.

    out[b, h] = Σ over s of softmax(q̃[b, h] · c[t_s] + q_pe[b, h] · k_pe[t_s])[s] · c[t_s]      t_s = indices[b, s]

indices int32 [B, k], in any order and without repetition; where one is not a token of its sequence, −1 for instance, it
is left out, and a row without any gives zero. All else is as in mla_decode.py. The selected entries are read from the
cache where they lie: gathering them first writes and reads them once more.

With 8 heads and 2048 of 8192 tokens it takes 24 µs for 16 sequences and 65 for 64, its merge included, where gathering
took 18 and 73 and the attention to what was gathered 15 and 48 more; the entries' bytes alone take 9 and 35 (NVIDIA
H200, bfloat16, nsys and CUPTI within replayed steps of DeepSeek-V3.2, 2026-11-21). For more heads they aren't compared:
`benchmarks/sparse_latent.py` does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_index, check_operand, check_reach, check_scratch
from gpubench.kernels.gpu import sm_count
from gpubench.kernels.launching import Launcher, Planned
from gpubench.kernels.mla_cache import PAGE, check_cache, check_table
from gpubench.kernels.mla_merge import merge_splits, scratch_elements
from gpubench.kernels.mla_portable import attend_tile, load_queries, place_program, share_tiles, write_part
from gpubench.kernels.ops import as_op

__all__ = ["mla_sparse_decode", "mla_sparse_decode_scratch"]


@dataclass(frozen=True)
class Tiling:
    """How a program's share of the work is cut."""

    block_h: int
    """Heads that share one reading of the entries."""
    block_n: int
    """Entries at a time."""
    num_stages: int
    num_warps: int
    programs_per_sm: int = 1


# By bytes per element. Not tuned.
_TILINGS = {
    2: Tiling(block_h=16, block_n=32, num_stages=3, num_warps=4, programs_per_sm=2),
    4: Tiling(block_h=16, block_n=16, num_stages=2, num_warps=8, programs_per_sm=2),
}

_LEAST_TILES = 2
"""Of a split: below, its start and end take longer than the reading."""

_LOG2_E = 1.4426950408889634


@triton.jit
def _attend_kernel(
    q_latent_ptr,
    q_rope_ptr,
    cache_ptr,
    table_ptr,
    lengths_ptr,
    indices_ptr,
    out_ptr,
    lse_offset,
    q_latent_stride_b,
    q_latent_stride_h,
    q_rope_stride_b,
    q_rope_stride_h,
    table_stride,
    heads,
    k,
    scale_log2,
    R: tl.constexpr,
    P: tl.constexpr,
    PAGE: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    b, split, h = place_program(heads, SPLITS, BLOCK_H)
    length = tl.load(lengths_ptr + b)
    first, last = share_tiles(tl.cdiv(k, BLOCK_N), split, SPLITS)
    q_latent = load_queries(q_latent_ptr, b, h, q_latent_stride_b, q_latent_stride_h, heads, R)
    q_rope = load_queries(q_rope_ptr, b, h, q_rope_stride_b, q_rope_stride_h, heads, P)
    r = tl.arange(0, R)
    p = tl.arange(0, P)
    n = tl.arange(0, BLOCK_N)

    top = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    acc = tl.zeros((BLOCK_H, R), tl.float32)
    for tile in tl.range(first, last, num_stages=NUM_STAGES):
        slot = tile * BLOCK_N + n
        token = tl.load(indices_ptr + b * k + slot, mask=slot < k, other=-1)
        live = (token >= 0) & (token < length)
        page = tl.load(table_ptr + b * table_stride + token // PAGE, mask=live, other=0).to(tl.int64)
        entries = cache_ptr + (page * PAGE + token % PAGE) * (R + P)
        latent = tl.load(entries[:, None] + r[None, :], mask=live[:, None], other=0.0)
        rope = tl.load(entries[:, None] + R + p[None, :], mask=live[:, None], other=0.0)
        state = (top, total, acc)
        top, total, acc = attend_tile(state, q_latent, q_rope, latent, rope, live, scale_log2, MAY_BE_EMPTY=True)
    write_part((top, total, acc), out_ptr, lse_offset, b, split, h, heads, True, R, SPLITS)


@functools.cache
def _choose_splits(programs: int, k: int, itemsize: int, sms: int) -> int:
    """Into how many parts a selection is split: as many as find room side by side, of two tiles at least."""
    tiling = _TILINGS[itemsize]
    tiles = -(-k // tiling.block_n)
    room = max(1, sms * tiling.programs_per_sm // programs)
    per_split = max(-(-tiles // room), min(_LEAST_TILES, tiles))
    return -(-tiles // per_split)


def _plan(q_latent: Tensor, k: int) -> tuple[Tiling, int]:
    batch, heads, _ = q_latent.shape
    tiling = _TILINGS[q_latent.element_size()]
    programs = batch * -(-heads // tiling.block_h)
    return tiling, _choose_splits(programs, k, q_latent.element_size(), sm_count())


def mla_sparse_decode_scratch(q_latent: Tensor, k: int) -> int:
    """How many elements, float32, `scratch` must have for a launch with these queries and k indices a row."""
    batch, heads, kv_lora = q_latent.shape
    return scratch_elements(batch, heads, kv_lora, _plan(q_latent, k)[1])


@as_op("mla_sparse_decode", mutates=("out", "scratch"))
def mla_sparse_decode(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    indices: Tensor,
    out: Tensor,
    scratch: Tensor,
    *,
    softmax_scale: float,
) -> None:
    """Write the attention into `out`; `scratch` is overwritten. Neither allocates nor synchronises.

    ArgumentError names an argument that doesn't fit.
    """
    _LAUNCH((q_latent, q_rope, cache, block_table, lengths, indices, out, scratch), softmax_scale)


def _prepare(tensors: Sequence[Tensor], softmax_scale: float) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    tiling, splits = _check(*tensors)
    q_latent, q_rope, _cache, block_table, _lengths, indices, *_ = tensors
    batch, heads, kv_lora = q_latent.shape
    numbers = (
        batch * splits * heads * kv_lora,
        q_latent.stride(0),
        q_latent.stride(1),
        q_rope.stride(0),
        q_rope.stride(1),
        block_table.stride(0),
        heads,
        indices.shape[1],
        softmax_scale * _LOG2_E,
    )
    constants = {
        "R": kv_lora,
        "P": q_rope.shape[2],
        "PAGE": PAGE,
        "SPLITS": splits,
        "BLOCK_H": tiling.block_h,
        "BLOCK_N": tiling.block_n,
        "NUM_STAGES": tiling.num_stages,
    }
    attend = _LAUNCHER.prepare(numbers, constants, num_warps=tiling.num_warps)
    grid = (batch * splits * -(-heads // tiling.block_h), 1, 1)

    def launch(tensors: Sequence[Tensor]) -> None:
        *operands, out, scratch = tensors
        if splits == 1:
            attend(grid, (*operands, out))
        else:
            attend(grid, (*operands, scratch))
            merge_splits(scratch, out, splits)

    return launch


_LAUNCHER, _LAUNCH = Launcher(_attend_kernel), Planned(_prepare)


def _check(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    indices: Tensor,
    out: Tensor,
    scratch: Tensor,
) -> tuple[Tiling, int]:
    kernel = "mla_sparse_decode"
    kv_lora, rope = check_cache(kernel, cache, ("q_latent", q_latent), ("q_rope", q_rope))
    if q_latent.dim() != 3 or q_latent.shape[1] < 1:
        raise ArgumentError(f"{kernel}: q_latent has shape {tuple(q_latent.shape)}; wanted (batch, heads, {kv_lora})")
    batch, heads, _ = q_latent.shape
    check_operand(kernel, "q_latent", q_latent, (batch, heads, kv_lora), like=cache)
    check_operand(kernel, "q_rope", q_rope, (batch, heads, rope), like=cache)
    for name, tensor in (("q_latent", q_latent), ("q_rope", q_rope)):
        check_reach(kernel, name, tensor, 1, heads)
    check_operand(kernel, "out", out, (batch, heads, kv_lora), like=cache)
    check_contiguous(kernel, "out", out)
    check_table(kernel, block_table, lengths, batch, cache)
    k = indices.shape[-1] if indices.dim() == 2 else 0
    if k < 1:
        raise ArgumentError(f"{kernel}: indices has shape {tuple(indices.shape)}; wanted ({batch}, k), at least 1")
    check_index(kernel, "indices", indices, (batch, k), like=cache)
    tiling, splits = _plan(q_latent, k)
    check_scratch(kernel, "scratch", scratch, scratch_elements(batch, heads, kv_lora, splits), like=cache)
    return tiling, splits
