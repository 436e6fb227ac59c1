"""Multi-head latent attention of one new token per sequence, absorbed, over a paged cache.

    s[t]   = (q̃[b, h] · c[t] + q_pe[b, h] · k_pe[t]) · softmax_scale          t = 0 … lengths[b] − 1
    out[b, h] = Σ over t of softmax(s)[t] · c[t]

q̃ = q_latent [B, H, R] and q_pe = q_rope [B, H, P]: rows adjacent, else of any strides. The cache, its block table and
the lengths are laid out as mla_cache.py says; out [B, H, R] is adjacent throughout, of the queries' dtype.

The tokens of a sequence are split among programs where the batch is too small to fill the GPU; then each writes a part
in float32 to the caller's scratch, and mla_merge.py merges them. How many depends on shapes alone: a captured launch
stays right when lengths change. A padded row, of length 0, gives zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_operand, check_reach, check_scratch
from gpubench.kernels.interpreter import is_interpreted
from gpubench.kernels.launching import Launcher, Planned
from gpubench.kernels.mla_cache import PAGE, check_cache, check_table
from gpubench.kernels.mla_merge import merge_splits, scratch_elements
from gpubench.kernels.mla_portable import attend_tile, load_queries, place_program, share_tiles, write_part
from gpubench.kernels.ops import as_op

__all__ = ["choose_splits", "mla_decode", "mla_decode_scratch"]


@dataclass(frozen=True)
class Tiling:
    """How a program's share of the work is cut, and by which kernel."""

    form: Literal["portable", "hopper_few", "hopper_many"]
    block_h: int
    """Heads that share one reading of the cache."""
    num_stages: int
    programs_per_sm: int
    """How many of these programs fit on one multiprocessor, by their shared memory."""
    block_n: int = PAGE
    """Tokens at a time, a divisor of the page."""
    num_warps: int = 4


# By bytes per element. Fits the 99 KiB of shared memory that every GPU since compute capability 8.0 has, with R 512.
# The fastest of nine such tilings on an H200 for 16 heads, bfloat16, 2026-11-21; float32 is not tuned.
_PORTABLE = {
    2: Tiling("portable", block_h=16, num_stages=5, programs_per_sm=2, block_n=32),
    4: Tiling("portable", block_h=16, num_stages=2, programs_per_sm=2, block_n=16, num_warps=8),
}

# For compute capability 9.0 and elements of 2 bytes: by R, the most heads that a tiling serves, and the tiling; the
# last one serves the rest. The fastest of those tried on an H200, bfloat16, 2026-11-21.
_HOPPER: dict[int, tuple[tuple[int, Tiling], ...]] = {
    256: (
        (16, Tiling("hopper_few", block_h=16, num_stages=3, programs_per_sm=1)),
        (0, Tiling("hopper_few", block_h=32, num_stages=3, programs_per_sm=1)),
    ),
    512: (
        (16, Tiling("hopper_few", block_h=16, num_stages=2, programs_per_sm=1)),
        (32, Tiling("hopper_few", block_h=32, num_stages=2, programs_per_sm=1)),
        (0, Tiling("hopper_many", block_h=64, num_stages=1, programs_per_sm=1)),
    ),
}
_HOPPER_ROPE = 64

_OVERHEAD_PAGES = 3
"""A program's start and end take about as long as this many pages (H200, bfloat16, 2026-11-21)."""

_LOG2_E = 1.4426950408889634


@triton.jit
def _attend_kernel(
    q_latent_ptr,
    q_rope_ptr,
    cache_ptr,
    table_ptr,
    lengths_ptr,
    out_ptr,
    lse_offset,
    q_latent_stride_b,
    q_latent_stride_h,
    q_rope_stride_b,
    q_rope_stride_h,
    table_stride,
    heads,
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
    first, last = share_tiles(tl.cdiv(length, BLOCK_N), split, SPLITS)
    q_latent = load_queries(q_latent_ptr, b, h, q_latent_stride_b, q_latent_stride_h, heads, R)
    q_rope = load_queries(q_rope_ptr, b, h, q_rope_stride_b, q_rope_stride_h, heads, P)
    r = tl.arange(0, R)
    p = tl.arange(0, P)
    n = tl.arange(0, BLOCK_N)

    top = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    acc = tl.zeros((BLOCK_H, R), tl.float32)
    for tile in tl.range(first, last, num_stages=NUM_STAGES):
        start = tile * BLOCK_N
        page = tl.load(table_ptr + b * table_stride + start // PAGE).to(tl.int64)
        entries = cache_ptr + (page * PAGE + start % PAGE) * (R + P)
        # What lies behind the last token may be anything, NaN included: weighed with 0 it would still be NaN.
        live = start + n < length
        latent = tl.load(entries + n[:, None] * (R + P) + r[None, :], mask=live[:, None], other=0.0)
        rope = tl.load(entries + n[:, None] * (R + P) + R + p[None, :], mask=live[:, None], other=0.0)
        state = (top, total, acc)
        top, total, acc = attend_tile(state, q_latent, q_rope, latent, rope, live, scale_log2, MAY_BE_EMPTY=False)
    write_part((top, total, acc), out_ptr, lse_offset, b, split, h, heads, last > first, R, SPLITS)


_LAUNCHER = Launcher(_attend_kernel)


@dataclass(frozen=True)
class Plan:
    """What a launch of these shapes comes to."""

    tiling: Tiling
    splits: int


def plan_launch(q_latent: Tensor, q_rope: Tensor, block_table: Tensor, splits: int | None) -> Plan:
    """The tiling and the number of parts for these shapes on the tensors' GPU."""
    batch, heads, kv_lora = q_latent.shape
    shape = (batch, heads, kv_lora, q_rope.shape[2])
    return _plan(shape, q_latent.element_size(), block_table.shape[1], splits, q_latent.device)


@functools.cache
def _plan(
    shape: tuple[int, int, int, int], itemsize: int, max_pages: int, splits: int | None, device: torch.device
) -> Plan:
    batch, heads, kv_lora, rope = shape
    tiling, sms = _PORTABLE[itemsize], 1
    if not is_interpreted():
        gpu = torch.cuda.get_device_properties(device)
        sms = gpu.multi_processor_count
        if (gpu.major, gpu.minor) == (9, 0) and itemsize == 2 and rope == _HOPPER_ROPE and kv_lora in _HOPPER:
            rows = _HOPPER[kv_lora]
            tiling = next((tiling for most_heads, tiling in rows if heads <= most_heads), rows[-1][1])
    if splits is None:
        splits = choose_splits(batch * -(-heads // tiling.block_h), max_pages, sms * tiling.programs_per_sm)
    return Plan(tiling, splits)


def choose_splits(programs: int, max_pages: int, slots: int) -> int:
    """Into how many parts the tokens are split, when `slots` programs run at a time.

    The least of rounds × pages per program, its overhead included; of equals, the fewest parts.
    """

    def cost(splits: int) -> int:
        rounds, pages = -(-programs * splits // slots), -(-max_pages // splits)
        return rounds * (pages + _OVERHEAD_PAGES)

    return min(range(1, min(max_pages, max(1, 2 * slots // programs)) + 1), key=cost)


def mla_decode_scratch(q_latent: Tensor, q_rope: Tensor, block_table: Tensor, *, splits: int | None = None) -> int:
    """How many elements, float32, `scratch` must have for a launch with these."""
    batch, heads, kv_lora = q_latent.shape
    return scratch_elements(batch, heads, kv_lora, plan_launch(q_latent, q_rope, block_table, splits).splits)


@as_op("mla_decode", mutates=("out", "scratch"))
def mla_decode(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    out: Tensor,
    scratch: Tensor,
    *,
    softmax_scale: float,
    splits: int | None = None,
) -> None:
    """Write the attention into `out`; `scratch` is overwritten. Neither allocates nor synchronises.

    `splits` is how many parts the tokens are split into; None leaves that to shapes and GPU. ArgumentError names an
    argument that doesn't fit.
    """
    _LAUNCH((q_latent, q_rope, cache, block_table, lengths, out, scratch), softmax_scale, splits)


def _prepare(tensors: Sequence[Tensor], softmax_scale: float, splits: int | None) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    q_latent, q_rope, _cache, block_table, *_ = tensors
    plan = _check(*tensors, splits=splits)
    splits = plan.splits
    batch, heads, kv_lora = q_latent.shape
    numbers = (
        batch * splits * heads * kv_lora,
        q_latent.stride(0),
        q_latent.stride(1),
        q_rope.stride(0),
        q_rope.stride(1),
        block_table.stride(0),
        heads,
        softmax_scale * _LOG2_E,
    )
    attend = _prepare_form(plan, (batch, heads, kv_lora), q_rope.shape[2], numbers)

    def launch(tensors: Sequence[Tensor]) -> None:
        *operands, out, scratch = tensors
        if splits == 1:
            attend(*operands, out)
        else:
            attend(*operands, scratch)
            merge_splits(scratch, out, splits)

    return launch


_LAUNCH = Planned(_prepare)


def _prepare_form(
    plan: Plan, shape: tuple[int, int, int], rope: int, numbers: Sequence[int | float]
) -> Callable[..., None]:
    """What launches the plan's kernel on q_latent, q_rope, cache, block_table, lengths, and what it writes."""
    tiling, splits = plan.tiling, plan.splits
    if tiling.form == "hopper_few":
        from gpubench.kernels.mla_hopper_few import prepare_few_heads

        return prepare_few_heads(*shape, numbers, splits=splits, block_h=tiling.block_h, stages=tiling.num_stages)
    if tiling.form == "hopper_many":
        from gpubench.kernels.mla_hopper_many import prepare_many_heads

        return prepare_many_heads(*shape, numbers, splits=splits)
    batch, heads, kv_lora = shape
    constants = {
        "R": kv_lora,
        "P": rope,
        "PAGE": PAGE,
        "SPLITS": splits,
        "BLOCK_H": tiling.block_h,
        "BLOCK_N": tiling.block_n,
        "NUM_STAGES": tiling.num_stages,
    }
    launch = _LAUNCHER.prepare(numbers, constants, num_warps=tiling.num_warps)
    grid = (batch * splits * -(-heads // tiling.block_h), 1, 1)
    return lambda *operands: launch(grid, operands)


def _check(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    out: Tensor,
    scratch: Tensor,
    *,
    splits: int | None,
) -> Plan:
    kernel = "mla_decode"
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
    max_pages = check_table(kernel, block_table, lengths, batch, cache)
    if splits is not None and not 1 <= splits <= max_pages:
        raise ArgumentError(f"{kernel}: splits is {splits}; wanted 1 to {max_pages}, the pages of a sequence")
    plan = plan_launch(q_latent, q_rope, block_table, splits)
    check_scratch(kernel, "scratch", scratch, scratch_elements(batch, heads, kv_lora, plan.splits), like=cache)
    return plan
