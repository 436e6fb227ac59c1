"""Exact top-k by guess, verify, refine: the columns that the last step chose say where this step's threshold lies.

Shapes and the bracket: topk_rows. hint int32 [rows, k]: the last step's indices, in any order; −1, duplicates and
columns out of range do no harm, and a useless hint costs only time. It may be `indices` itself: a row's hint is read
before its indices are written.

- *Guess*: mean μ and deviation σ of this step's scores at the hinted columns. Of captured scores, where between 36 and
  77 % of the best k stay, the k-th best lies between μ − 0.85 σ and μ + 0.45 σ.
- *Verify*: one pass over the row, in registers, counts what lies above both thresholds.
- *Refine*: the next two thresholds come from a line through the logarithms of the counts, for scores have thin tails;
  then also through the counts; after 8 guesses the bracket is cut in thirds of its keys, which ends by itself.
- *Finish*: what lies above the bracket is written, and at most 64 elements between its ends are ranked against one
  another.

Rows of up to 32768 columns are read once and stay in the registers of one program. Longer ones are cut into blocks:
each keeps its best k, which it finds from its own mean and deviation, and the hint helps the merge.
"""

from __future__ import annotations

import functools
import statistics

import triton
import triton.language as tl
from torch import Tensor

from gpubench.kernels.arguments import check_index
from gpubench.kernels.gpu import sm_count
from gpubench.kernels.ops import as_op
from gpubench.kernels.topk_rows import (
    HIGHEST,
    LOWEST,
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
    value_of,
    write,
)

__all__ = ["FINALISTS", "make_gvr_scratch", "plan_gvr", "topk_gvr"]

FINALISTS = 64
"""Elements of the window that are ranked by comparing each with each."""

_MOST_WARPS = 8

_GUESSES: tl.constexpr = tl.constexpr(8)
_MARGIN: tl.constexpr = tl.constexpr(0.35)
"""How far beside k the two counts are aimed, as a share of FINALISTS: closer would miss more often."""


@triton.jit
def _guess_from_hint(x, length, column):
    """Two thresholds from this row's scores at the hinted columns."""
    score = tl.load(x + column, mask=(column >= 0) & (column < length), other=float("nan")).to(tl.float32)
    is_finite = tl.abs(score) < float("inf")
    count = tl.maximum(tl.sum(is_finite.to(tl.int32)), 1)
    mean = tl.sum(tl.where(is_finite, score, 0.0)) / count
    offset = tl.where(is_finite, score - mean, 0.0)
    # Equal scores have no deviation, and no second threshold: then a tenth of what they are.
    deviation = tl.maximum(tl.sqrt(tl.sum(offset * offset) / count), 0.1 * tl.abs(mean) + 1e-3)
    return mean - 0.85 * deviation, mean + 0.45 * deviation


@triton.jit
def _guess_from_moments(score, quantile):
    """Two thresholds around a normal distribution's quantile, in standard deviations, of a tile's own scores."""
    is_finite = tl.abs(score) < float("inf")
    score = tl.where(is_finite, score, 0.0)
    count = tl.maximum(tl.sum(tl.sum(is_finite.to(tl.int32), axis=0)), 1)
    mean = tl.sum(tl.sum(score, axis=0)) / count
    offset = tl.where(is_finite, score - mean, 0.0)
    deviation = tl.sqrt(tl.sum(tl.sum(offset * offset, axis=0)) / count) + 1e-30
    return mean + (quantile - 0.3) * deviation, mean + (quantile + 0.3) * deviation


@triton.jit
def _count(score, lower, upper):
    """How many scores lie above each of two thresholds, lower ≤ upper; both fit into 16 bits."""
    flag = tl.where(score > upper, 65537, tl.where(score > lower, 1, 0))
    both = tl.sum(tl.sum(flag, axis=0))
    return both & 0xFFFF, (both >> 16) & 0xFFFF


@triton.jit
def _next_guess(
    lo,
    hi,
    above_lo,
    above_hi,
    k,
    step,
    lower,
    upper,
    above_lower,
    above_upper,
    MARGIN: tl.constexpr,
):
    """The two scores to try next: between the bracket's ends, or beyond the last two if one end is still unknown."""
    first, last = value_of(lo), value_of(hi)
    log_k = tl.log(k.to(tl.float32))
    log_first = tl.log(above_lo.to(tl.float32))
    log_last = tl.log(tl.maximum(above_hi.to(tl.float32), 0.5))
    slope = (last - first) / (log_first - log_last)
    low = first + slope * (log_first - tl.log(k + MARGIN))
    high = first + slope * (log_first - tl.log(tl.maximum(k - MARGIN, 1.0)))
    if (step >= 4) & (step % 2 == 0):  # no thin tail here, or they would have met by now
        slope = (last - first) / (above_lo - above_hi)
        low = first + slope * (above_lo - k - MARGIN)
        high = first + slope * (above_lo - k + MARGIN)
    if (lo == LOWEST) | (hi == HIGHEST):
        first, last = value_of(lower), value_of(upper)
        log_first = tl.log(tl.maximum(above_lower.to(tl.float32), 0.5))
        log_last = tl.log(tl.maximum(above_upper.to(tl.float32), 0.5))
        slope = (last - first) / tl.maximum(log_first - log_last, 0.05)
        if above_lower < k:
            beyond = slope * (log_k - log_first)
            low = first - 2.0 * beyond - 0.1 * (last - first)
            high = first - 0.9 * beyond
        else:
            beyond = slope * (log_last - log_k)
            low = last + 0.5 * beyond
            high = last + 1.1 * beyond + 0.05 * (last - first)
    return low, high


@triton.jit
def _refine(score, count, k, low, high, UNIT: tl.constexpr, FINALISTS: tl.constexpr):
    """Narrow the bracket from two guessed scores on: (lo, hi, count above lo, count above hi)."""
    lo = tl.full((), LOWEST, tl.int32)
    hi = tl.full((), HIGHEST, tl.int32)
    above_lo = count
    above_hi = tl.full((), 0, tl.int32)
    step = 0
    lower, upper = lo, hi
    above_lower, above_upper = above_lo, above_hi
    while (above_lo - above_hi > FINALISTS) & (above_lo > k) & (hi.to(tl.int64) - lo > UNIT):
        if step > 0:
            low, high = _next_guess(
                lo, hi, above_lo, above_hi, k, step, lower, upper, above_lower, above_upper, _MARGIN * FINALISTS
            )
        third = tl.maximum((hi.to(tl.int64) - lo) // 3, 1).to(tl.int32)
        lower = tl.where(step < _GUESSES, key_of(low), lo + third)
        upper = tl.where(step < _GUESSES, key_of(high), hi - third)
        lower = tl.maximum(tl.minimum(lower, hi - 1), lo + 1)
        upper = tl.maximum(tl.minimum(upper, hi - 1), lower)
        above_lower, above_upper = _count(score, value_of(lower), value_of(upper))
        window = above_lo - above_hi
        is_below = above_lower < k
        is_above = above_upper >= k
        lo = tl.where(is_below, lo, tl.where(is_above, upper, lower))
        above_lo = tl.where(is_below, above_lo, tl.where(is_above, above_upper, above_lower))
        hi = tl.where(is_below, lower, tl.where(is_above, hi, upper))
        above_hi = tl.where(is_below, above_lower, tl.where(is_above, above_hi, above_upper))
        step += 1
        if (above_lo - above_hi == window) & (step >= 2):
            # Nothing was cut off: many equal scores, or none where we look. Draw the bracket's ends up to its elements.
            least = tl.min(tl.min(tl.where(score > value_of(lo), score, float("inf")), axis=0))
            most = tl.max(tl.max(tl.where(score <= value_of(hi), score, float("-inf")), axis=0))
            # Both zeros are one score, though their keys differ: 0 and −1. LOWEST has no score to be compared with.
            hi = tl.minimum(hi, tl.where(most == 0, 0, key_of(most)))
            lo = tl.where(lo == LOWEST, lo, tl.maximum(lo, tl.where(least == 0, -2, key_of(least) - 1)))
    return lo, hi, above_lo, above_hi


# One layout serves all: an element a load. So sizes aren't specialised, or Triton would widen the loads of some rows
# and pass what it computes of them through shared memory on its way to the scattered stores.
@triton.jit(do_not_specialize=["stride", "width", "k", "chunk", "blocks"])
def _gvr_kernel(
    x,
    stride,
    lengths,
    hint,
    candidates,
    places,
    values,
    indices,
    width,
    k,
    chunk,
    blocks,
    quantile,
    R: tl.constexpr,
    C: tl.constexpr,
    K: tl.constexpr,
    UNIT: tl.constexpr,
    FINALISTS: tl.constexpr,
    READS_ROW: tl.constexpr,
    WRITES_OUT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    program = row * blocks + block
    x += row * stride
    candidates += program * k
    places += program * (k + FINALISTS)
    finalists = places + k
    slot = tl.arange(0, K)
    if WRITES_OUT:
        hinted = tl.load(hint + row * k + slot, mask=slot < k, other=-1)  # long before it is needed
    length = tl.maximum(tl.minimum(tl.load(lengths + row), width), 0)
    within = tl.arange(0, R)[:, None] * C + tl.arange(0, C)[None, :]
    if READS_ROW:
        first = block * chunk
        source = x + first
        end = tl.minimum(tl.maximum(length - first, 0), chunk)
        count = end
    else:
        first = 0
        source = candidates
        end = blocks * k
        count = count_candidates(length, chunk, blocks, k)
    score = load_scores(source, within, end, READS_ROW)
    out = (values + row * k, indices + row * k) if WRITES_OUT else (candidates,)
    if WRITES_OUT:
        low, high = _guess_from_hint(x, length, hinted)
    else:
        low, high = _guess_from_moments(score, quantile)

    lo, hi, above_lo, above_hi = _refine(score, count, k, low, high, UNIT, FINALISTS)
    is_settled = (above_lo <= k) | (hi.to(tl.int64) - lo <= UNIT)
    sure = pack_bits(score > value_of(hi))
    if lo == LOWEST:
        rest = pack_bits(is_valid(source, within, end, READS_ROW)) & ~sure
    else:
        rest = pack_bits(score > value_of(lo)) & ~sure
    stage(sure, rest, places, above_hi, finalists, tl.where(is_settled, k - above_hi, FINALISTS), is_settled)
    tl.debug_barrier()
    which = tl.arange(0, FINALISTS)
    placed = tl.where(is_settled, tl.minimum(above_lo, k), above_hi)
    is_last = (which < above_lo - above_hi) & (not is_settled)
    found, column = read_back(source, places, slot, slot < placed, first, READS_ROW)
    last, its_column = read_back(source, finalists, which, is_last, first, READS_ROW)
    write(out, slot, found, column, (slot < k) & (is_settled | (slot < placed)))
    if not is_settled:
        # One order of all: by score, then by place. What isn't there is last.
        order = (key_of(last.to(tl.float32)).to(tl.int64) << 32) | which.to(tl.int64)
        # The sum of one changes nothing, but keeps Triton from reading finalists again for each row of the comparison.
        order = tl.sum(tl.where(is_last, order, -(2**63))[None, :], axis=0)
        rank = above_hi + tl.sum((order[:, None] > order[None, :]).to(tl.int32), axis=0)
        write(out, rank, last, its_column, is_last & (rank < k))


def plan_gvr(rows: int, width: int, k: int) -> Plan:
    """One program for a row that fits into its registers; else as many blocks as find room on the GPU side by side."""
    if width <= TILE:
        return cut(width, 1)
    return cut(width, max(triton.cdiv(width, TILE), min(most_blocks(k), sm_count() // rows)))


def make_gvr_scratch(most_rows: int, width: int, k: int) -> TopkScratch:
    """Scratch on the default device that serves any number of rows up to `most_rows`; see make_radix_scratch."""
    return make_scratch(plan_gvr, (most_rows, width, k), FINALISTS)


@functools.cache
def _quantile(share: float) -> float:
    """Of the normal distribution, in standard deviations, with this share above."""
    return statistics.NormalDist().inv_cdf(min(max(1 - share, 1e-3), 1 - 1e-6))


@as_op("topk_gvr", mutates=("values", "indices", "candidates", "places"))
def topk_gvr(
    x: Tensor, lengths: Tensor, hint: Tensor, values: Tensor, indices: Tensor, candidates: Tensor, places: Tensor
) -> None:
    """Write each row's best k. Neither allocates nor synchronises; ArgumentError names an argument that doesn't fit."""
    kernel = "topk_gvr"
    check_topk(kernel, x, lengths, values, indices)
    rows, width = x.shape
    k = values.shape[1]
    check_index(kernel, "hint", hint, (rows, k), like=x)
    plan = plan_gvr(rows, width, k)
    check_scratch(kernel, TopkScratch(candidates, places), (rows, plan.blocks, k), FINALISTS, like=x)
    stages = [(True, True, plan.chunk)]
    if plan.blocks > 1:
        stages = [(True, False, plan.chunk), (False, True, plan.blocks * k)]
    for reads_row, writes_out, elements in stages:
        tile = tile_of(elements, _MOST_WARPS)
        _gvr_kernel[(rows, plan.blocks if reads_row else 1)](
            x,
            x.stride(0),
            lengths,
            hint,
            candidates,
            places,
            values,
            indices,
            width,
            k,
            plan.chunk,
            plan.blocks,
            _quantile(k / plan.chunk),
            R=tile.rows,
            C=tile.columns,
            K=triton.next_power_of_2(k),
            UNIT=unit_of(x.dtype),
            FINALISTS=FINALISTS,
            READS_ROW=reads_row,
            WRITES_OUT=writes_out,
            num_warps=tile.num_warps,
        )
