"""Exact top-k by radix selection: digit after digit of the keys, from the highest, the bin that holds the k-th best.

Shapes and the bracket: topk_rows. Keys of 32 bits are three digits of 11, 11 and 10 bits, those of 16-bit scores two.
The histogram of a digit's 2048 bins is taken in two steps, 64 bins and then the 32 of the chosen one, for Triton's
histogram of a tile costs each element a number of instructions in proportion to the bins. Only elements between the
bracket's ends are counted. Once a long tile has at most 2048 of them left, these finalists are copied together and the
remaining digits are taken of them alone.

Rows are cut into blocks of 2048 columns and more, at most 10 a row, as long as there are multiprocessors for them. Each
block writes its own best k, and a second launch merges a row's candidates in the same way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.kernels.gpu import sm_count
from gpubench.kernels.ops import as_op
from gpubench.kernels.topk_rows import (
    HIGHEST,
    TILE,
    Plan,
    TopkScratch,
    check_scratch,
    check_topk,
    count_candidates,
    cut,
    is_valid,
    key_of,
    load_scores,
    make_scratch,
    most_blocks,
    pack_bits,
    read_back,
    stage,
    tile_of,
    unit_of,
    write,
)

__all__ = ["FINALISTS", "PerCallRadix", "make_radix_scratch", "plan_radix", "topk_radix"]

FINALISTS = 2048

_LEAST_CHUNK = 2048
_MOST_WARPS = 8


_LEAST: tl.constexpr = tl.constexpr(-(2**31))
"""The key of what isn't there."""


@triton.jit
def _choose_bin(key, lo, hi, above_hi, k, shift, BINS: tl.constexpr):
    """The bin of the k-th best, by BINS values of the key from bit `shift` on; the counts above its two ends."""
    SIZE: tl.constexpr = key.shape[0] * key.shape[1]
    digit = ((key ^ _LEAST) >> shift) & (BINS - 1)
    inside = (key > lo) & (key <= hi)
    size = tl.histogram(
        tl.reshape(digit, (SIZE,), can_reorder=True), BINS, mask=tl.reshape(inside, (SIZE,), can_reorder=True)
    )
    from_start = above_hi + tl.cumsum(size, axis=0, reverse=True)
    chosen = tl.sum((from_start >= k).to(tl.int32), axis=0) - 1
    is_chosen = tl.arange(0, BINS) == chosen
    above_start = tl.sum(tl.where(is_chosen, from_start, 0), axis=0)
    return chosen, above_start, above_start - tl.sum(tl.where(is_chosen, size, 0), axis=0)


@triton.jit
def _ends(prefix, shift):
    """The bracket of the keys that begin with `prefix`, all bits below `shift` being open."""
    lo = tl.where(prefix == 0, _LEAST, (prefix ^ _LEAST) - 1)
    return lo, (prefix | ((1 << shift) - 1)) ^ _LEAST


@triton.jit
def _take_digits(key, prefix, bits, lo, hi, above_lo, above_hi, k, LIMIT: tl.constexpr, LAST_BIT: tl.constexpr):
    """Take digits until the window has at most LIMIT elements or nothing is left to be decided."""
    while (above_lo - above_hi > LIMIT) & (above_lo > k) & (bits > LAST_BIT):
        digit, above_lo, above_hi = _choose_bin(key, lo, hi, above_hi, k, bits - 6, 64)
        prefix |= digit << (bits - 6)
        lo, hi = _ends(prefix, bits - 6)
        bits = tl.maximum(bits - 11, 0)  # of the last digit's 5 lower bits one is known by now; it does no harm
        digit, above_lo, above_hi = _choose_bin(key, lo, hi, above_hi, k, bits, 32)
        prefix |= digit << bits
        lo, hi = _ends(prefix, bits)
    return prefix, bits, lo, hi, above_lo, above_hi


@triton.jit
def _place_finalists(key, place, lo, hi, before, above_hi, k, places):
    """Stage the places of finalists: what is certain behind the `before` that are, then the window up to k."""
    sure = key > hi
    rest = (key > lo) & (key <= hi)
    flag = tl.where(sure, 1, tl.where(rest, 65536, 0))
    of_thread = tl.sum(flag, axis=0)
    earlier = (tl.cumsum(of_thread, axis=0) - of_thread)[None, :] + tl.cumsum(flag, axis=0) - flag
    slot = tl.where(sure, before + (earlier & 0xFFFF), above_hi + (earlier >> 16))
    tl.store(places + slot, place, mask=(sure | rest) & (slot < k))


# Sizes aren't specialised: see topk_gvr.
@triton.jit(do_not_specialize=["stride", "width", "k", "chunk", "blocks"])
def _radix_kernel(
    x,
    stride,
    lengths,
    candidates,
    places,
    values,
    indices,
    width,
    k,
    chunk,
    blocks,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    LAST_BIT: tl.constexpr,
    FINALISTS: tl.constexpr,
    READS_ROW: tl.constexpr,
    WRITES_OUT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    program = row * blocks + block
    candidates += program * k
    places += program * (k + FINALISTS)
    finalists = places + k
    length = tl.maximum(tl.minimum(tl.load(lengths + row), width), 0)
    within = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    if READS_ROW:
        first = block * chunk
        source = x + row * stride + first
        end = tl.minimum(tl.maximum(length - first, 0), chunk)
        count = end
    else:
        first = 0
        source = candidates
        end = blocks * k
        count = count_candidates(length, chunk, blocks, k)
    # A tile of a few elements a thread is not worth copying its finalists.
    LIMIT: tl.constexpr = 0 if R * C <= 2 * FINALISTS else FINALISTS
    key = key_of(load_scores(source, within, end, READS_ROW))
    key = tl.where(is_valid(source, within, end, READS_ROW), key, _LEAST)
    prefix, bits = tl.full((), 0, tl.int32), tl.full((), 32, tl.int32)
    lo, hi = tl.full((), _LEAST, tl.int32), tl.full((), HIGHEST, tl.int32)
    prefix, bits, lo, hi, above_lo, above_hi = _take_digits(
        key, prefix, bits, lo, hi, count, tl.full((), 0, tl.int32), k, LIMIT, LAST_BIT
    )
    is_settled = (above_lo <= k) | (bits <= LAST_BIT)
    sure = pack_bits(key > hi)
    rest = pack_bits(key > lo) & ~sure
    stage(sure, rest, places, above_hi, finalists, tl.where(is_settled, k - above_hi, FINALISTS), is_settled)
    if LIMIT > 0:  # noqa: SIM102 (one is decided when compiled, the other when run)
        if not is_settled:
            tl.debug_barrier()
            S: tl.constexpr = FINALISTS // C
            which = tl.arange(0, S)[:, None] * C + tl.arange(0, C)[None, :]
            is_there = which < above_lo - above_hi
            place = tl.load(finalists + which, mask=is_there, other=0)
            last = tl.where(is_there, key_of(load_scores(source, place, end, READS_ROW)), _LEAST)
            before = above_hi
            prefix, bits, lo, hi, above_lo, above_hi = _take_digits(
                last, prefix, bits, lo, hi, above_lo, above_hi, k, 0, LAST_BIT
            )
            _place_finalists(last, place, lo, hi, before, above_hi, k, places)
    tl.debug_barrier()
    slot = tl.arange(0, K)
    score, column = read_back(source, places, slot, slot < tl.minimum(above_lo, k), first, READS_ROW)
    out = (values + row * k, indices + row * k) if WRITES_OUT else (candidates,)
    write(out, slot, score, column, slot < k)


def plan_radix(rows: int, width: int, k: int) -> Plan:
    """Blocks of at least 2048 columns, at most 10 a row, and no more programs than two for each multiprocessor."""
    wanted = min(width // _LEAST_CHUNK, 2 * sm_count() // rows, most_blocks(k))
    return cut(width, max(triton.cdiv(width, TILE), wanted, 1))


def make_radix_scratch(most_rows: int, width: int, k: int) -> TopkScratch:
    """Scratch on the default device that serves any number of rows up to `most_rows`.

    When a longer draft brings more rows it is to be made anew, and what was captured with it captured again.
    """
    return make_scratch(plan_radix, (most_rows, width, k), FINALISTS)


@as_op("topk_radix", mutates=("values", "indices", "candidates", "places"))
def topk_radix(x: Tensor, lengths: Tensor, values: Tensor, indices: Tensor, candidates: Tensor, places: Tensor) -> None:
    """Write each row's best k. Neither allocates nor synchronises; ArgumentError names an argument that doesn't fit."""
    kernel = "topk_radix"
    check_topk(kernel, x, lengths, values, indices)
    rows, width = x.shape
    k = values.shape[1]
    plan = plan_radix(rows, width, k)
    check_scratch(kernel, TopkScratch(candidates, places), (rows, plan.blocks, k), FINALISTS, like=x)
    stages = [(True, True, plan.chunk)]
    if plan.blocks > 1:
        stages = [(True, False, plan.chunk), (False, True, plan.blocks * k)]
    for reads_row, writes_out, elements in stages:
        tile = tile_of(elements, _MOST_WARPS)
        _radix_kernel[(rows, plan.blocks if reads_row else 1)](
            x,
            x.stride(0),
            lengths,
            candidates,
            places,
            values,
            indices,
            width,
            k,
            plan.chunk,
            plan.blocks,
            R=tile.rows,
            C=tile.columns,
            K=triton.next_power_of_2(k),
            LAST_BIT=unit_of(x.dtype).bit_length() - 1,
            FINALISTS=FINALISTS,
            READS_ROW=reads_row,
            WRITES_OUT=writes_out,
            num_warps=tile.num_warps,
        )


class PerCallRadix:
    """topk_radix with scratch of its own: a specimen of a defect, kept to be found. Don't use it under capture.

    The scratch is taken at the first call, which is an eager warm-up, and so lies outside of the memory that a capture
    keeps for its graph. It is remembered, and dropped when a larger launch needs more, or by `release`. A graph that
    was captured before goes on writing to the old address, which belongs to somebody else by then: wrong results,
    theirs or its own, or an illegal access once the memory is unmapped.
    """

    def __init__(self) -> None:
        self._scratch: TopkScratch | None = None

    def __call__(self, x: Tensor, lengths: Tensor, values: Tensor, indices: Tensor) -> None:
        """Write each row's best k."""
        rows, width = x.shape
        blocks = plan_radix(rows, width, values.shape[1]).blocks
        needed = rows * blocks * values.shape[1]
        if self._scratch is None or self._scratch.candidates.numel() < needed:
            with torch.device(x.device):
                self._scratch = make_radix_scratch(rows, width, values.shape[1])
        topk_radix(x, lengths, values, indices, self._scratch.candidates, self._scratch.places)

    def release(self) -> None:
        """Drop the scratch, as an engine does that wants its memory back."""
        self._scratch = None
