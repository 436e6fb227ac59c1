"""Latent attention of up to 32 heads for Hopper GPUs: bound by the memory, so what counts is to keep copies under way.

What is computed is in mla_decode.py. The tensor cores multiply 64 rows at least, and these heads are fewer; so the 64
tokens of a page are the rows, and heads the columns:

    scores [64, H]  = C [64, R] · q̃ᵀ + K_pe · q_peᵀ
    acc    [R, H]  += Cᵀ [R, 64] · weights [64, H]

Both products read C from the shared memory that the copy went to. While one page is computed with, the next is on its
way: with R 512 two fit, and one program runs per multiprocessor.
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

__all__ = ["prepare_few_heads"]

_SHARED = gl.constexpr(SHARED)


@gluon.jit
def _fetch(latent_desc, rope_desc, page, latent, rope, arrived, wanted):
    R: gl.constexpr = latent.shape[1]
    P: gl.constexpr = rope.shape[1]
    mbarrier.expect(arrived, 64 * (R + P) * 2, pred=wanted)
    tma.async_copy_global_to_shared(latent_desc, [page * 64, 0], arrived, latent, pred=wanted)
    tma.async_copy_global_to_shared(rope_desc, [page * 64, R], arrived, rope, pred=wanted)


@gluon.jit
def _attend_kernel(  # noqa: PLR0915 (one pass, top to bottom)
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
    BLOCK_H: gl.constexpr,
    STAGES: gl.constexpr,
):
    dtype: gl.constexpr = q_latent_ptr.dtype.element_ty
    MMA: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, BLOCK_H, 16])
    WEIGHTS: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * BLOCK_H, element_bitwidth=16, rank=2)
    WIDE: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])
    NARROW: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])

    # Programs that read the same pages, for other heads, are neighbours: they find them in the L2 cache.
    program = gl.program_id(0)
    blocks_h = gl.cdiv(heads, BLOCK_H)
    block = program % blocks_h
    split = program // blocks_h % SPLITS
    b = (program // blocks_h // SPLITS).to(gl.int64)

    length = gl.load(lengths_ptr + b)
    pages = gl.cdiv(length, 64)
    pages_per_split = gl.cdiv(pages, SPLITS)
    first = split * pages_per_split
    last = gl.minimum(first + pages_per_split, pages)

    latents = gl.allocate_shared_memory(dtype, [STAGES, 64, R], _SHARED)
    ropes = gl.allocate_shared_memory(dtype, [STAGES, 64, P], _SHARED)
    q_latent = gl.allocate_shared_memory(dtype, [BLOCK_H, R], _SHARED)
    q_rope = gl.allocate_shared_memory(dtype, [BLOCK_H, P], _SHARED)
    shared_weights = gl.allocate_shared_memory(dtype, [64, BLOCK_H], WEIGHTS)
    arrived = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(arrived.index(stage), count=1)
    fence_async_shared()

    table = table_ptr + b * table_stride
    for stage in gl.static_range(STAGES):
        page = gl.load(table + first + stage, mask=first + stage < last, other=0)
        wanted = first + stage < last
        _fetch(latent_desc, rope_desc, page, latents.index(stage), ropes.index(stage), arrived.index(stage), wanted)
    page = gl.load(table + first + STAGES, mask=first + STAGES < last, other=0)

    h = block * BLOCK_H + gl.arange(0, BLOCK_H, gl.SliceLayout(1, WIDE))
    r = gl.arange(0, R, gl.SliceLayout(0, WIDE))
    rows = q_latent_ptr + b * q_latent_stride_b + (h[:, None] * q_latent_stride_h + r[None, :])
    q_latent.store(gl.load(rows, mask=(h < heads)[:, None], other=0.0))
    h = block * BLOCK_H + gl.arange(0, BLOCK_H, gl.SliceLayout(1, NARROW))
    p = gl.arange(0, P, gl.SliceLayout(0, NARROW))
    rows = q_rope_ptr + b * q_rope_stride_b + (h[:, None] * q_rope_stride_h + p[None, :])
    q_rope.store(gl.load(rows, mask=(h < heads)[:, None], other=0.0))
    fence_async_shared()

    n = gl.arange(0, 64, gl.SliceLayout(1, MMA))
    nothing = gl.zeros([64, BLOCK_H], gl.float32, MMA)
    top = gl.full([BLOCK_H], float("-inf"), gl.float32, gl.SliceLayout(0, MMA))
    totals = gl.zeros([64, BLOCK_H], gl.float32, MMA)  # per row: they are added up once, at the end
    acc = gl.zeros([R, BLOCK_H], gl.float32, MMA)
    stage = 0
    phase = 0
    for tile in range(first, last):
        latent = latents.index(stage)
        rope = ropes.index(stage)
        mbarrier.wait(arrived.index(stage), phase)
        live = length - tile * 64
        if live < 64:
            clear_rows(latent, live)
        scores = warpgroup_mma(latent, q_latent.permute([1, 0]), nothing, use_acc=False, is_async=True)
        scores = warpgroup_mma(rope, q_rope.permute([1, 0]), scores, is_async=True)
        scores = warpgroup_mma_wait(0, deps=[scores])
        scores = gl.where((n < live)[:, None], scores * scale_log2, float("-inf"))
        new_top = gl.maximum(top, gl.max(scores, 0))
        rescale = gl.exp2(top - new_top)
        weights = gl.exp2(scores - new_top[None, :])
        totals = totals * rescale[None, :] + weights
        top = new_top
        shared_weights.store(weights.to(dtype))
        acc = acc * rescale[None, :]
        fence_async_shared()
        acc = warpgroup_mma(latent.permute([1, 0]), shared_weights, acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=[acc])
        _fetch(latent_desc, rope_desc, page, latent, rope, arrived.index(stage), tile + STAGES < last)
        page = gl.load(table + tile + STAGES + 1, mask=tile + STAGES + 1 < last, other=0)
        phase = gl.where(stage == STAGES - 1, phase ^ 1, phase)
        stage = gl.where(stage == STAGES - 1, 0, stage + 1)

    total = gl.sum(totals, 0)
    total = gl.where(total > 0, total, 1.0)  # without a token: acc is 0, top is -inf, and both stay so
    acc = acc * (1.0 / total)[None, :]
    h = block * BLOCK_H + gl.arange(0, BLOCK_H, gl.SliceLayout(0, MMA))
    r = gl.arange(0, R, gl.SliceLayout(1, MMA))
    row = (b * SPLITS + split) * heads
    if SPLITS > 1:
        gl.store(out_ptr + lse_offset + row + h, top + gl.log2(total), mask=h < heads)
    if SPLITS == 1 or last > first:
        target = out_ptr + row * R + (h[None, :] * R + r[:, None])
        gl.store(target, acc.to(out_ptr.dtype.element_ty), mask=(h < heads)[None, :])


_LAUNCHER = Launcher(_attend_kernel)


def prepare_few_heads(
    batch: int, heads: int, kv_lora: int, numbers: Sequence[int | float], *, splits: int, block_h: int, stages: int
) -> Callable[..., None]:
    """What launches on operands that mla_decode has checked; `numbers` are the kernel's."""
    constants = {"R": kv_lora, "P": ROPE, "SPLITS": splits, "BLOCK_H": block_h, "STAGES": stages}
    launch = _LAUNCHER.prepare(numbers, constants, num_warps=4)
    grid = (batch * splits * -(-heads // block_h), 1, 1)

    def attend(q_latent: Tensor, q_rope: Tensor, cache: Tensor, *others: Tensor) -> None:
        launch(grid, (q_latent, q_rope, *describe(cache, kv_lora), *others))

    return attend
