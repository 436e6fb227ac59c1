"""What both exact top-k have in common: keys that order as the scores do, and how a chosen tile is written.

x [rows, width] float32, float16 or bfloat16, width a multiple of 8; lengths int32 [rows], the valid columns of each
row; values [rows, k] in the dtype of x and indices int32 [rows, k], in no particular order. A row with fewer than k
valid columns gives them all, then the value −inf and the index −1. NaN counts as +inf, and is given as NaN.

A selection is a *bracket*: two keys lo < hi with count(key > lo) ≥ k > count(key > hi). What is above hi is chosen
for certain; what lies between, the window, has `need` = k − count(key > hi) more. An algorithm narrows the bracket
until the window is *settled*, because it holds one distinct key or just `need` elements (then any `need` of them do),
or until it is small enough to be finished apart. All counts are exact, so the result is, whatever led to them.

A tile [R, C] of a row lies in registers, a column of it in one thread's: R ≤ 32, so that a thread's selection is a
word of bits. What is chosen is first staged, as places in the tile, then read again and written side by side.

Long rows are cut into at most 10 blocks. Each writes its own best k as candidates, score and column in one 64-bit
integer: scratch of rows × blocks × k × (4 + 4) bytes. A second launch selects among a row's candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
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
    last_size,
)

__all__ = [
    "HIGHEST",
    "LOWEST",
    "MAX_K",
    "TILE",
    "Plan",
    "Tile",
    "TopkScratch",
    "check_scratch",
    "check_topk",
    "count_candidates",
    "cut",
    "is_valid",
    "key_of",
    "load_scores",
    "make_scratch",
    "most_blocks",
    "pack_bits",
    "read_back",
    "stage",
    "tile_of",
    "unit_of",
    "value_of",
    "write",
]

MAX_K = 2048
TILE = 32768
"""The most columns that one program keeps in its registers."""

_MOST_BLOCKS = 10
_MOST_CANDIDATES = 16384
"""Of a row. To merge more takes a tile whose registers spill: it took 1.5 times as long (H200, 2026-11-21)."""

HIGHEST: tl.constexpr = tl.constexpr(0x7F800000)
"""+inf's key: nothing is above."""
LOWEST: tl.constexpr = tl.constexpr(-(2**31) + 0x7FFFFF - 1)
"""The key below −inf's: all that is valid is above, and no score has it."""
_NOTHING: tl.constexpr = tl.constexpr((-(2**31) + 0x7F800000) * 2**32 + 0xFFFFFFFF)
"""A candidate that isn't there: −inf at column −1."""


@triton.jit
def key_of(score):
    """int32 that compare as float32 scores do."""
    bits = score.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value_of(key):
    """The float32 score of a key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def load_scores(source, within, count, IS_ROW: tl.constexpr):
    """Scores in float32, of a row or of candidates; −inf from `count` on, +inf for NaN."""
    if IS_ROW:
        score = tl.load(source + within, mask=within < count, other=float("-inf")).to(tl.float32)
    else:
        pair = tl.load(source + within, mask=within < count, other=_NOTHING)
        score = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return tl.where(score == score, score, float("inf"))  # noqa: PLR0124 (not of a NaN)


@triton.jit
def is_valid(source, within, count, IS_ROW: tl.constexpr):
    """Which places hold something, be it −inf."""
    if IS_ROW:
        found = within < count
    else:
        found = tl.load(source + within, mask=within < count, other=_NOTHING).to(tl.int32) >= 0
    return found


@triton.jit
def count_candidates(length, chunk, blocks, k):
    """How many candidates a row's blocks have written."""
    block = tl.arange(0, 16)
    valid = tl.minimum(tl.maximum(length - block * chunk, 0), tl.minimum(chunk, k))
    return tl.sum(tl.where(block < blocks, valid, 0), axis=0)


@triton.jit
def pack_bits(chosen):
    """[R, C] of booleans as C words: bit r is row r's."""
    R: tl.constexpr = chosen.shape[0]
    return tl.sum(tl.where(chosen, (1 << tl.arange(0, R))[:, None], 0), axis=0)


@triton.jit
def _count_bits(word):
    word = word.to(tl.uint32, bitcast=True)
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return ((word + (word >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def stage(sure, rest, places, above_hi, finalists, room, is_settled):
    """Write the places of the bits that are set in `sure`, side by side, and of at most `room` of those in `rest`:
    behind slot `above_hi` if the bracket is settled, else to the finalists.
    """
    C: tl.constexpr = sure.shape[0]
    window = tl.where(is_settled, places + above_hi, finalists)
    # Both counts in one integer: neither exceeds the tile's 2^15.
    count = _count_bits(sure) + (_count_bits(rest) << 16)
    before = tl.cumsum(count, axis=0) - count
    slot, within = before & 0xFFFF, before >> 16
    bits = sure | rest
    for _ in range(tl.max(_count_bits(bits), axis=0)):
        lowest = bits & (0 - bits)
        # A power of two as a float is its exponent.
        row = (lowest.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
        is_sure = (sure & lowest) != 0
        target = tl.where(is_sure, places + slot, window + within)
        tl.store(target, row * C + tl.arange(0, C), mask=(bits != 0) & (is_sure | (within < room)))
        bits = bits ^ lowest
        slot += is_sure.to(tl.int32)
        within += 1 - is_sure.to(tl.int32)


@triton.jit
def read_back(source, places, slot, mask, first, IS_ROW: tl.constexpr):
    """What was staged at these slots: scores as they were, and columns."""
    place = tl.load(places + slot, mask=mask, other=0)
    if IS_ROW:
        score = tl.load(source + place, mask=mask, other=float("-inf"))
        column = first + place
    else:
        pair = tl.load(source + place, mask=mask, other=_NOTHING)
        score = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        column = pair.to(tl.int32)
    return tl.where(mask, score, float("-inf")), tl.where(mask, column, -1)


@triton.jit
def write(out, slot, score, column, mask):
    """Write to `out`: (values, indices), or (candidates,) where another launch goes on."""
    if len(out) == 1:
        bits = score.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
        tl.store(out[0] + slot, (bits << 32) | (column.to(tl.int64) & 0xFFFFFFFF), mask=mask)
    else:
        tl.store(out[0] + slot, score.to(out[0].dtype.element_ty), mask=mask)
        tl.store(out[1] + slot, column, mask=mask)


@dataclass(frozen=True)
class Plan:
    """How rows are cut: `blocks` programs a row with `chunk` columns each, a multiple of 8."""

    blocks: int
    chunk: int


def most_blocks(k: int) -> int:
    """Into how many blocks a row is cut at the most, unless it is too long for them."""
    return min(_MOST_BLOCKS, _MOST_CANDIDATES // k)


def cut(width: int, blocks: int) -> Plan:
    """Rows of `width` in about `blocks` equal blocks."""
    chunk = triton.cdiv(triton.cdiv(width, blocks), 8) * 8
    return Plan(triton.cdiv(width, chunk), chunk)


@dataclass(frozen=True)
class Tile:
    """How one program holds up to `rows × columns` elements: a column's elements in one thread's registers."""

    rows: int
    columns: int
    num_warps: int


def tile_of(elements: int, most_warps: int) -> Tile:
    """The tile that holds so many elements, as many columns as it has threads."""
    size = max(triton.next_power_of_2(elements), 256)
    num_warps = max(min(most_warps, size // 128), size // 1024)
    return Tile(size // (num_warps * 32), num_warps * 32, num_warps)


@dataclass(frozen=True)
class TopkScratch:
    """What a launch writes in between. It belongs to the caller; a captured graph goes on using it."""

    candidates: Tensor
    """int64 [rows · blocks · k]: score and column of each block's best k."""
    places: Tensor
    """int32 [rows · blocks · (k + finalists)]: what is staged."""


def make_scratch(plan: Callable[[int, int, int], Plan], sizes: tuple[int, int, int], finalists: int) -> TopkScratch:
    """Scratch on the default device for up to `rows` rows, at the worst, of (rows, width, k)."""
    most_rows, width, k = sizes
    programs = max(rows * plan(rows, width, k).blocks for rows in range(1, most_rows + 1))
    return TopkScratch(
        torch.empty(programs * k, dtype=torch.int64), torch.empty(programs * (k + finalists), dtype=torch.int32)
    )


def unit_of(dtype: torch.dtype) -> int:
    """How far apart the keys of neighbouring scores are at least."""
    return {torch.float32: 1, torch.float16: 1 << 13, torch.bfloat16: 1 << 16}[dtype]


def check_topk(kernel: str, x: Tensor, lengths: Tensor, values: Tensor, indices: Tensor) -> None:
    """Raise ArgumentError unless these fit together."""
    check_launchable(kernel, "x", x)
    if x.dim() != 2 or x.shape[0] < 1 or x.shape[1] < 8 or x.shape[1] % 8 or x.stride(0) % 8:
        raise ArgumentError(
            f"{kernel}: x has shape {tuple(x.shape)} and row stride {x.stride(0) if x.dim() else 0}; wanted "
            "(rows, width), both width and stride padded to multiples of 8"
        )
    rows = x.shape[0]
    k = last_size(values)
    if not 1 <= k <= MAX_K:
        raise ArgumentError(f"{kernel}: values has shape {tuple(values.shape)}; wanted (rows, k), k from 1 to {MAX_K}")
    check_operand(kernel, "values", values, (rows, k), like=x)
    check_index(kernel, "indices", indices, (rows, k), like=x)
    check_index(kernel, "lengths", lengths, (rows,), like=x)
    check_adjacent(kernel, "x", x)
    check_contiguous(kernel, "values", values)


def check_scratch(kernel: str, scratch: TopkScratch, sizes: tuple[int, int, int], finalists: int, like: Tensor) -> None:
    """Raise ArgumentError unless the scratch lies where x does and is large enough for (rows, blocks, k)."""
    rows, blocks, k = sizes
    for name, tensor, dtype, each, what in (
        ("candidates", scratch.candidates, torch.int64, k, f"k {k}"),
        ("places", scratch.places, torch.int32, k + finalists, f"(k {k} + {finalists})"),
    ):
        if tensor.dtype is not dtype or tensor.device != like.device or not tensor.is_contiguous():
            raise ArgumentError(
                f"{kernel}: {name} is {tensor.dtype} on {tensor.device} with strides {tensor.stride()}; "
                f"wanted contiguous {dtype} on {like.device}"
            )
        if tensor.numel() < (needed := rows * blocks * each):
            raise ArgumentError(
                f"{kernel}: {name} is too small: got {tensor.numel()}, need {needed} "
                f"(rows {rows} × blocks {blocks} × {what})"
            )
