"""What surrounds the products of latent attention at one new token: norms, rotary positions, and the cache's entry.

    mla_prepare       q_low | c | k_pe = split(projected);  query = RMSNorm(q_low);  the cache's last entry becomes
                      RMSNorm(c) ‖ rotate(k_pe)
    rotate_heads      x[b, h] ← rotate(x[b, h]), in place

projected [B, Q + R + P] of one of float32, float16 and bfloat16, rows adjacent; query [B, Q]; the norms' weights [Q]
and [R]; rotary [2, P / 2] or [B, 2, P / 2], float32: cos and sin of the new token's angles, the same for all sequences
or of each. The cache, its block table and the lengths are laid out as mla_cache.py says. x [B, H, P], a head's elements
adjacent. Halves of what is rotated are paired, as in GPT-NeoX. All is computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import (
    check_adjacent,
    check_contiguous,
    check_launchable,
    check_operand,
    check_reach,
    check_scratch,
)
from gpubench.kernels.launching import Launcher, Planned
from gpubench.kernels.mla_cache import PAGE, check_cache, check_table
from gpubench.kernels.ops import as_op

__all__ = ["mla_prepare", "rotate_heads"]

_HEADS = 16
"""Heads that a program rotates."""


@triton.jit
def _normalise(source, scale, size, eps, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x = tl.load(source + place, mask=place < size, other=0.0).to(tl.float32)
    weight = tl.load(scale + place, mask=place < size, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x, axis=0) / size + eps) * weight


@triton.jit
def _prepare_kernel(
    projected,
    query_norm,
    latent_norm,
    rotary,
    cache,
    table,
    lengths,
    query,
    projected_stride,
    table_stride,
    rotary_stride,
    q_lora,
    eps,
    Q: tl.constexpr,
    R: tl.constexpr,
    P: tl.constexpr,
    PAGE: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    projected += b * projected_stride
    rotary += b * rotary_stride
    if tl.program_id(1) == 0:
        place = tl.arange(0, Q)
        found = _normalise(projected, query_norm, q_lora, eps, Q)
        tl.store(query + b * q_lora + place, found.to(query.dtype.element_ty), mask=place < q_lora)
    else:
        last = tl.load(lengths + b) - 1
        if last >= 0:  # a padded row has no entry
            page = tl.load(table + b * table_stride + last // PAGE).to(tl.int64)
            entry = cache + (page * PAGE + last % PAGE) * (R + P)
            found = _normalise(projected + q_lora, latent_norm, R, eps, R)
            tl.store(entry + tl.arange(0, R), found.to(cache.dtype.element_ty))
            half = tl.arange(0, P // 2)
            cos, sin = tl.load(rotary + half), tl.load(rotary + P // 2 + half)
            first = tl.load(projected + q_lora + R + half).to(tl.float32)
            second = tl.load(projected + q_lora + R + P // 2 + half).to(tl.float32)
            tl.store(entry + R + half, (first * cos - second * sin).to(cache.dtype.element_ty))
            tl.store(entry + R + P // 2 + half, (second * cos + first * sin).to(cache.dtype.element_ty))


@triton.jit
def _rotate_kernel(
    x, rotary, stride_b, stride_h, rotary_stride, heads, half_size, HEADS: tl.constexpr, HALF: tl.constexpr
):
    rotary += tl.program_id(0).to(tl.int64) * rotary_stride
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    half = tl.arange(0, HALF)
    inside = (h[:, None] < heads) & (half[None, :] < half_size)
    cos = tl.load(rotary + half, mask=half < half_size, other=0.0)[None, :]
    sin = tl.load(rotary + half_size + half, mask=half < half_size, other=0.0)[None, :]
    x += tl.program_id(0).to(tl.int64) * stride_b + h[:, None] * stride_h + half[None, :]
    first = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x + half_size, mask=inside, other=0.0).to(tl.float32)
    tl.store(x, (first * cos - second * sin).to(x.dtype.element_ty), mask=inside)
    tl.store(x + half_size, (second * cos + first * sin).to(x.dtype.element_ty), mask=inside)


@as_op("mla_prepare", mutates=("cache", "query"))
def mla_prepare(
    projected: Tensor,
    query_norm: Tensor,
    latent_norm: Tensor,
    rotary: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    query: Tensor,
    eps: float,
) -> None:
    """Write the normalised queries and, at position lengths[b] − 1, the new token's entry.

    Neither allocates nor synchronises; ArgumentError names an argument that doesn't fit.
    """
    _PREPARE((projected, query_norm, latent_norm, rotary, cache, block_table, lengths, query), eps)


def _plan_preparing(tensors: Sequence[Tensor], eps: float) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    projected, query_norm, latent_norm, rotary, cache, block_table, lengths, query = tensors
    kernel = "mla_prepare"
    batch, q_lora = query.shape if query.dim() == 2 else (0, 0)
    if rotary.shape[:-1] not in ((2,), (batch, 2)) or not rotary.numel():
        raise ArgumentError(
            f"{kernel}: rotary has shape {tuple(rotary.shape)}; wanted (2, half of what is rotated), or {batch} of that"
        )
    check_contiguous(kernel, "rotary", rotary)
    check_launchable(kernel, "projected", projected)
    rows = rotary.view(-1, 2 * rotary.shape[-1])
    kv_lora, rope = check_cache(kernel, cache, ("latent_norm", latent_norm[None]), ("rotary", rows))
    if batch < 1 or not 1 <= q_lora <= 8192:
        raise ArgumentError(f"{kernel}: query has shape {tuple(query.shape)}; wanted (batch, 1 to 8192)")
    check_operand(kernel, "projected", projected, (batch, q_lora + kv_lora + rope), like=cache)
    check_operand(kernel, "query", query, (batch, q_lora), like=cache)
    for name, norm, size in (("query_norm", query_norm, q_lora), ("latent_norm", latent_norm, kv_lora)):
        check_operand(kernel, name, norm, (size,), like=cache)
        check_contiguous(kernel, name, norm)
    check_adjacent(kernel, "projected", projected)
    check_contiguous(kernel, "query", query)
    check_scratch(kernel, "rotary", rotary, rope, like=cache)
    check_table(kernel, block_table, lengths, batch, cache)
    launch = _PREPARER.prepare(
        (projected.stride(0), block_table.stride(0), rope if rotary.dim() == 3 else 0, q_lora, eps),
        {"Q": triton.next_power_of_2(q_lora), "R": kv_lora, "P": rope, "PAGE": PAGE},
        num_warps=4,
    )
    return lambda tensors: launch((batch, 2, 1), tensors)


_PREPARER, _PREPARE = Launcher(_prepare_kernel), Planned(_plan_preparing)


@as_op("rotate_heads", mutates=("x",))
def rotate_heads(x: Tensor, rotary: Tensor) -> None:
    """Rotate every head in place. Neither allocates nor synchronises."""
    _ROTATE((x, rotary))


def _plan_rotating(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    x, rotary = tensors
    kernel = "rotate_heads"
    check_launchable(kernel, "x", x)
    if x.dim() != 3 or min(x.shape) < 1 or x.shape[2] % 2:
        raise ArgumentError(f"{kernel}: x has shape {tuple(x.shape)}; wanted (batch, heads, an even number)")
    check_adjacent(kernel, "x", x)
    batch, heads, size = x.shape
    check_reach(kernel, "x", x, 1, heads)
    if rotary.shape not in ((2, size // 2), (batch, 2, size // 2)):
        raise ArgumentError(
            f"{kernel}: rotary has shape {tuple(rotary.shape)}; wanted {(2, size // 2)}, or {batch} of that"
        )
    check_scratch(kernel, "rotary", rotary, size, like=x)
    launch = _ROTATOR.prepare(
        (x.stride(0), x.stride(1), size if rotary.dim() == 3 else 0, heads, size // 2),
        {"HEADS": _HEADS, "HALF": triton.next_power_of_2(size // 2)},
        num_warps=1,
    )
    grid = (batch, triton.cdiv(heads, _HEADS), 1)
    return lambda tensors: launch(grid, tensors)


_ROTATOR, _ROTATE = Launcher(_rotate_kernel), Planned(_plan_rotating)
