"""Latent attention of 64 heads and more for Hopper GPUs: bound by arithmetic, so what counts is to keep it fed.

What is computed is in mla_decode.py. A program has 64 heads, and their sums [64, R] in float32 fill the registers of
two warp groups: each has half of the columns. So both need the weights of all tokens, and they take pages in pairs:

    group   scores of      then adds to its half of acc (left: columns 0 … R/2 − 1, right: the others)
    even    even pages     weights even · C even, left      weights odd · C odd, left
    odd     odd pages      weights even · C even, right     weights odd · C odd, right

While one group takes a softmax, the other one's products run. The even group publishes its maximum and its weights;
the odd one goes on from that maximum and rescales the even weights to its own. Weights lie where the page's rotary
keys did, which are no longer needed then. A warp of its own copies pages, a quarter as soon as its last reader has let
go of it: there is room for one pair alone. A quarter arrives in chunks of 64 columns, and scores are begun with the
first of them: in one piece it cost 4 to 8 % more (H200, 2026-11-21). The division of work is FlashMLA's (DeepSeek-AI,
2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from gpubench.kernels.launching import Launcher
from gpubench.kernels.mla_hopper_page import ROPE, SHARED, clear_rows, describe

__all__ = ["BLOCK_H", "prepare_many_heads"]

BLOCK_H = 64

_SHARED = gl.constexpr(SHARED)

# Quarters of a pair of pages in shared memory, each of four chunks. A chunk, and a page's rotary keys, have a barrier
# that tells of their arrival; a quarter has one, _FREED behind its number, that tells of its release.
_EVEN_LEFT = gl.constexpr(0)
_EVEN_RIGHT = gl.constexpr(1)
_ODD_LEFT = gl.constexpr(2)
_ODD_RIGHT = gl.constexpr(3)
_CHUNKS = gl.constexpr(4)
_ROPE = gl.constexpr(16)
_FREED = gl.constexpr(18)
# The other barriers: a group's weights are published, its sums are.
_WEIGHTS = gl.constexpr(22)
_TOTALS = gl.constexpr(24)
_NUM_BARRIERS = gl.constexpr(26)


@gluon.jit
def _copy_quarter(latent_desc, row, column, chunks, barriers, freed, QUARTER: gl.constexpr):
    mbarrier.wait(barriers.index(_FREED + QUARTER), freed)
    for i in gl.static_range(QUARTER * _CHUNKS, (QUARTER + 1) * _CHUNKS):
        mbarrier.expect(barriers.index(i), 64 * 64 * 2)
        place = [row, column + (i - QUARTER * _CHUNKS) * 64]
        tma.async_copy_global_to_shared(latent_desc, place, barriers.index(i), chunks.index(i))


@gluon.jit
def _copy_pages(latent_desc, rope_desc, table, first, last, chunks, ropes, barriers):
    HALF: gl.constexpr = _CHUNKS * 64
    P: gl.constexpr = ropes.shape[2]
    ROPE_BYTES: gl.constexpr = 64 * P * 2
    even_page = gl.load(table + first, mask=first < last, other=0)
    odd_page = gl.load(table + first + 1, mask=first + 1 < last, other=0)
    for even in range(first, last, 2):
        freed = ((even - first) // 2 + 1) % 2  # the phase before this pair's: at first there is nothing to wait for
        even_row = even_page * 64
        odd_row = odd_page * 64  # of page 0, and cleared by its readers, if the last pair has no odd page
        even_page = gl.load(table + even + 2, mask=even + 2 < last, other=0)
        odd_page = gl.load(table + even + 3, mask=even + 3 < last, other=0)
        _copy_quarter(latent_desc, even_row, 0, chunks, barriers, freed, _EVEN_LEFT)
        _copy_quarter(latent_desc, odd_row, HALF, chunks, barriers, freed, _ODD_RIGHT)
        _copy_quarter(latent_desc, even_row, HALF, chunks, barriers, freed, _EVEN_RIGHT)
        mbarrier.expect(barriers.index(_ROPE), ROPE_BYTES)
        tma.async_copy_global_to_shared(rope_desc, [even_row, 2 * HALF], barriers.index(_ROPE), ropes.index(0))
        _copy_quarter(latent_desc, odd_row, 0, chunks, barriers, freed, _ODD_LEFT)
        mbarrier.expect(barriers.index(_ROPE + 1), ROPE_BYTES)
        tma.async_copy_global_to_shared(rope_desc, [odd_row, 2 * HALF], barriers.index(_ROPE + 1), ropes.index(1))


@gluon.jit
def _add_chunk(scores, q_latent, chunks, barriers, phase, CHUNK: gl.constexpr, ODD: gl.constexpr, ADDS: gl.constexpr):
    """The scores of 64 of a page's columns, once they have arrived."""
    PLACE: gl.constexpr = 2 * ODD * _CHUNKS + CHUNK
    mbarrier.wait(barriers.index(PLACE), phase)
    query = q_latent.slice(64 * CHUNK, 64, dim=1)
    return warpgroup_mma(query, chunks.index(PLACE).permute([1, 0]), scores, use_acc=ADDS, is_async=True)


@gluon.jit
def _score(q_latent, q_rope, chunks, ropes, barriers, phase, live, scale_log2, ODD: gl.constexpr):
    """One page's scores [64 heads, 64 tokens], in base 2."""
    FIRST: gl.constexpr = ODD  # the half that arrives first: of even pages the left one, of odd ones the right
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16])
    scores = gl.zeros([64, 64], gl.float32, SCORES)
    for i in gl.static_range(2 * _CHUNKS):
        scores = _add_chunk(
            scores, q_latent, chunks, barriers, phase, (FIRST * _CHUNKS + i) % (2 * _CHUNKS), ODD, i > 0
        )
    mbarrier.wait(barriers.index(_ROPE + ODD), phase)
    scores = warpgroup_mma(q_rope, ropes.index(ODD).permute([1, 0]), scores, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    token = gl.arange(0, 64, gl.SliceLayout(0, SCORES))
    return gl.where((token < live)[None, :], scores * scale_log2, float("-inf"))


@gluon.jit
def _attend_even(
    q_latent,
    q_rope,
    latents,
    chunks,
    ropes,
    tops,
    totals,
    barriers,
    length,
    first,
    last,
    scale_log2,
    out,
    lse,
    heads,
    SPLITS: gl.constexpr,
):
    HALF: gl.constexpr = latents.shape[2]
    dtype: gl.constexpr = q_latent.dtype
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HALF, 16])
    top = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([64], gl.float32, gl.SliceLayout(1, SCORES))
    acc = gl.zeros([64, HALF], gl.float32, ACC)
    for even in range(first, last, 2):
        phase = (even - first) // 2 % 2
        live = length - even * 64
        scores = _score(q_latent, q_rope, chunks, ropes, barriers, phase, live, scale_log2, 0)
        even_top = gl.maximum(top, gl.max(scores, 1))
        weights = gl.exp2(scores - even_top[:, None])
        rescale = gl.exp2(top - even_top)
        total = total * rescale + gl.sum(weights, 1)
        weights = weights.to(dtype)
        ropes.index(0).store(weights)
        tops.index(0).store(even_top)
        mbarrier.arrive(barriers.index(_WEIGHTS), count=1)
        if live < 64:
            clear_rows(latents.index(_EVEN_LEFT), live)
        acc = acc * gl.convert_layout(rescale, gl.SliceLayout(1, ACC))[:, None]
        weights = gl.convert_layout(weights, gl.DotOperandLayout(0, ACC, 2))
        acc = warpgroup_mma(weights, latents.index(_EVEN_LEFT), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(barriers.index(_FREED + _EVEN_LEFT), count=1)

        mbarrier.wait(barriers.index(_WEIGHTS + 1), phase)
        top = tops.index(1).load(gl.SliceLayout(1, SCORES))
        odd_live = gl.where(even + 1 < last, live - 64, 0)
        if odd_live < 64:
            clear_rows(latents.index(_ODD_LEFT), odd_live)
        rescale = gl.exp2(even_top - top)
        total = total * rescale
        acc = acc * gl.convert_layout(rescale, gl.SliceLayout(1, ACC))[:, None]
        acc = warpgroup_mma(ropes.index(1), latents.index(_ODD_LEFT), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        fence_async_shared()  # between what was read and written here and the next copy to it
        mbarrier.arrive(barriers.index(_FREED + _ODD_LEFT), count=1)
    _finish(acc, total, top, totals, barriers, out, lse, heads, last > first, SPLITS, 0)


@gluon.jit
def _attend_odd(
    q_latent,
    q_rope,
    latents,
    chunks,
    ropes,
    tops,
    totals,
    barriers,
    length,
    first,
    last,
    scale_log2,
    out,
    lse,
    heads,
    SPLITS: gl.constexpr,
):
    HALF: gl.constexpr = latents.shape[2]
    dtype: gl.constexpr = q_latent.dtype
    SCORES: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, 64, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, HALF, 16])
    OPERAND: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)
    top = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([64], gl.float32, gl.SliceLayout(1, SCORES))
    acc = gl.zeros([64, HALF], gl.float32, ACC)
    for even in range(first, last, 2):
        phase = (even - first) // 2 % 2
        even_live = length - even * 64
        live = gl.where(even + 1 < last, even_live - 64, 0)
        scores = _score(q_latent, q_rope, chunks, ropes, barriers, phase, live, scale_log2, 1)
        own_top = gl.max(scores, 1)
        mbarrier.wait(barriers.index(_WEIGHTS), phase)
        even_top = tops.index(0).load(gl.SliceLayout(1, SCORES))
        odd_top = gl.maximum(even_top, own_top)
        weights = gl.exp2(scores - odd_top[:, None])
        rescale = gl.exp2(top - odd_top)
        total = total * rescale + gl.sum(weights, 1)
        weights = weights.to(dtype)
        ropes.index(1).store(weights)
        tops.index(1).store(odd_top)
        fence_async_shared()  # the even group's product reads the weights where they lie
        mbarrier.arrive(barriers.index(_WEIGHTS + 1), count=1)
        if live < 64:
            clear_rows(latents.index(_ODD_RIGHT), live)
            if even_live < 64:
                clear_rows(latents.index(_EVEN_RIGHT), even_live)
        acc = acc * gl.convert_layout(rescale, gl.SliceLayout(1, ACC))[:, None]
        weights = gl.convert_layout(weights, OPERAND)
        acc = warpgroup_mma(weights, latents.index(_ODD_RIGHT), acc, is_async=True)
        rescale = gl.convert_layout(gl.exp2(even_top - odd_top), gl.SliceLayout(1, OPERAND))
        even_weights = (ropes.index(0).load(OPERAND).to(gl.float32) * rescale[:, None]).to(dtype)
        acc = warpgroup_mma_wait(0, deps=[acc])
        mbarrier.arrive(barriers.index(_FREED + _ODD_RIGHT), count=1)
        acc = warpgroup_mma(even_weights, latents.index(_EVEN_RIGHT), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        fence_async_shared()  # between what was read and written here and the next copy to it
        mbarrier.arrive(barriers.index(_FREED + _EVEN_RIGHT), count=1)
        top = odd_top
    _finish(acc, total, top, totals, barriers, out, lse, heads, last > first, SPLITS, 1)


@gluon.jit
def _finish(acc, total, top, totals, barriers, out, lse, heads, has_tokens, SPLITS: gl.constexpr, ODD: gl.constexpr):
    """Add the two groups' sums up, and write this one's half of the columns."""
    HALF: gl.constexpr = acc.shape[1]
    ROWS: gl.constexpr = total.type.layout
    ACC: gl.constexpr = acc.type.layout
    totals.index(ODD).store(total)
    mbarrier.arrive(barriers.index(_TOTALS + ODD), count=1)
    mbarrier.wait(barriers.index(_TOTALS + 1 - ODD), 0)
    total = total + totals.index(1 - ODD).load(ROWS)
    total = gl.where(total > 0, total, 1.0)  # without a token: acc is 0, top is -inf, and both stay so
    acc = acc * gl.convert_layout(1.0 / total, gl.SliceLayout(1, ACC))[:, None]
    if SPLITS > 1 and ODD == 0:
        each = gl.arange(0, 64, ROWS)
        gl.store(lse + each, top + gl.log2(total), mask=each < heads)
    if SPLITS == 1 or has_tokens:
        h = gl.arange(0, 64, gl.SliceLayout(1, ACC))
        r = ODD * HALF + gl.arange(0, HALF, gl.SliceLayout(0, ACC))
        target = out + (h[:, None] * (2 * HALF) + r[None, :])
        gl.store(target, acc.to(out.dtype.element_ty), mask=(h < heads)[:, None])


@gluon.jit
def _attend_kernel(
    q_latent_ptr,
    q_rope_ptr,
    latent_desc,
    rope_desc,
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
    R: gl.constexpr,
    P: gl.constexpr,
    SPLITS: gl.constexpr,
):
    dtype: gl.constexpr = q_latent_ptr.dtype.element_ty
    FLAT: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])
    NARROW: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])

    # Programs that read the same pages, for other heads, are neighbours: they find them in the L2 cache.
    program = gl.program_id(0)
    blocks_h = gl.cdiv(heads, 64)
    first_head = program % blocks_h * 64
    split = program // blocks_h % SPLITS
    b = (program // blocks_h // SPLITS).to(gl.int64)

    length = gl.load(lengths_ptr + b)
    pages = gl.cdiv(length, 64)
    pages_per_split = gl.cdiv(pages, SPLITS)
    first = split * pages_per_split
    last = gl.minimum(first + pages_per_split, pages)

    q_latent = gl.allocate_shared_memory(dtype, [64, R], _SHARED)
    q_rope = gl.allocate_shared_memory(dtype, [64, P], _SHARED)
    gl.static_assert(R == 2 * _CHUNKS * 64)
    latents = gl.allocate_shared_memory(dtype, [4, 64, R // 2], _SHARED)
    chunks = latents._reinterpret(dtype, [4 * _CHUNKS, 64, 64], _SHARED)
    ropes = gl.allocate_shared_memory(dtype, [2, 64, P], _SHARED)
    tops = gl.allocate_shared_memory(gl.float32, [2, 64], FLAT)
    totals = gl.allocate_shared_memory(gl.float32, [2, 64], FLAT)
    barriers = gl.allocate_shared_memory(gl.int64, [_NUM_BARRIERS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(_NUM_BARRIERS):
        mbarrier.init(barriers.index(i), count=1)

    h = first_head + gl.arange(0, 64, gl.SliceLayout(1, WIDE))
    r = gl.arange(0, R, gl.SliceLayout(0, WIDE))
    rows = q_latent_ptr + b * q_latent_stride_b + (h[:, None] * q_latent_stride_h + r[None, :])
    q_latent.store(gl.load(rows, mask=(h < heads)[:, None], other=0.0))
    h = first_head + gl.arange(0, 64, gl.SliceLayout(1, NARROW))
    p = gl.arange(0, P, gl.SliceLayout(0, NARROW))
    rows = q_rope_ptr + b * q_rope_stride_b + (h[:, None] * q_rope_stride_h + p[None, :])
    q_rope.store(gl.load(rows, mask=(h < heads)[:, None], other=0.0))
    fence_async_shared()

    row = (b * SPLITS + split) * heads + first_head
    out = out_ptr + row * R
    lse = out_ptr + lse_offset + row
    left = heads - first_head
    table = table_ptr + b * table_stride
    gl.warp_specialize(
        [
            (
                _attend_even,
                (
                    q_latent,
                    q_rope,
                    latents,
                    chunks,
                    ropes,
                    tops,
                    totals,
                    barriers,
                    length,
                    first,
                    last,
                    scale_log2,
                    out,
                    lse,
                    left,
                    SPLITS,
                ),
            ),
            (
                _attend_odd,
                (
                    q_latent,
                    q_rope,
                    latents,
                    chunks,
                    ropes,
                    tops,
                    totals,
                    barriers,
                    length,
                    first,
                    last,
                    scale_log2,
                    out,
                    lse,
                    left,
                    SPLITS,
                ),
            ),
            (_copy_pages, (latent_desc, rope_desc, table, first, last, chunks, ropes, barriers)),
        ],
        [4, 1],
        [240, 24],
    )


_LAUNCHER = Launcher(_attend_kernel)


def prepare_many_heads(
    batch: int, heads: int, kv_lora: int, numbers: Sequence[int | float], *, splits: int
) -> Callable[..., None]:
    """What launches on operands that mla_decode has checked; `numbers` are the kernel's."""
    launch = _LAUNCHER.prepare(numbers, {"R": kv_lora, "P": ROPE, "SPLITS": splits}, num_warps=4)
    grid = (batch * splits * -(-heads // BLOCK_H), 1, 1)

    def attend(q_latent: Tensor, q_rope: Tensor, cache: Tensor, *others: Tensor) -> None:
        launch(grid, (q_latent, q_rope, *describe(cache, 64), *others))  # a chunk's columns

    return attend
