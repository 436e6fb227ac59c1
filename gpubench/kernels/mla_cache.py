"""The paged cache of multi-head latent attention: its layout, and the new token's entry written into it in place.

    cache [pages, 64, R + P]      per token one latent c (R) and, behind it, one rotary key k_pe (P), for all heads
    block_table [B, max_pages]    int32: the pages of sequence b, in order; token t is in its page t // 64, row t % 64;
                                  of more rows, the first are meant
    lengths [B]                   int32: tokens that sequence b has, at most 64 · max_pages; 0 for a padded row

All on one device. Pages belong to one sequence each where they are written.
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
    check_index,
    check_launchable,
    check_operand,
)
from gpubench.kernels.launching import Launcher, Planned
from gpubench.kernels.ops import as_op

__all__ = ["PAGE", "check_cache", "check_table", "mla_cache_append"]

PAGE = 64
"""Tokens per page."""

_MAX_LATENT, _MAX_ROPE = 512, 128


@triton.jit
def _append_kernel(
    latent_ptr,
    rope_ptr,
    cache_ptr,
    table_ptr,
    lengths_ptr,
    latent_stride,
    rope_stride,
    table_stride,
    R: tl.constexpr,
    P: tl.constexpr,
    PAGE: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)  # b · stride may exceed 32 bits
    position = tl.load(lengths_ptr + b) - 1
    if position >= 0:
        page = tl.load(table_ptr + b * table_stride + position // PAGE).to(tl.int64)
        row = cache_ptr + (page * PAGE + position % PAGE) * (R + P)
        r = tl.arange(0, R)
        p = tl.arange(0, P)
        tl.store(row + r, tl.load(latent_ptr + b * latent_stride + r))
        tl.store(row + R + p, tl.load(rope_ptr + b * rope_stride + p))


@as_op("mla_cache_append", mutates=("cache",))
def mla_cache_append(latent: Tensor, rope: Tensor, cache: Tensor, block_table: Tensor, lengths: Tensor) -> None:
    """Write latent [B, R] and rope [B, P] to position lengths[b] - 1 of each sequence, bit for bit.

    `lengths` counts the new token already; a sequence of length 0 gets nothing. Rows of latent and rope may be strided.
    """
    _LAUNCH((latent, rope, cache, block_table, lengths))


def _prepare(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    latent, rope, cache, block_table, lengths = tensors
    kernel = "mla_cache_append"
    kv_lora, rope_dim = check_cache(kernel, cache, ("latent", latent), ("rope", rope))
    batch = latent.shape[0]
    check_operand(kernel, "latent", latent, (batch, kv_lora), like=cache)
    check_operand(kernel, "rope", rope, (batch, rope_dim), like=cache)
    check_table(kernel, block_table, lengths, batch, cache)
    launch = _LAUNCHER.prepare(
        (latent.stride(0), rope.stride(0), block_table.stride(0)),
        {"R": kv_lora, "P": rope_dim, "PAGE": PAGE},
        num_warps=2,
    )
    return lambda tensors: launch((batch, 1, 1), tensors)


_LAUNCHER, _LAUNCH = Launcher(_append_kernel), Planned(_prepare)


def check_cache(kernel: str, cache: Tensor, latent: tuple[str, Tensor], rope: tuple[str, Tensor]) -> tuple[int, int]:
    """R and P, the last dimensions of two named tensors; ArgumentError unless they and the cache are what it says."""
    check_launchable(kernel, "cache", cache)
    sizes = []
    for (name, tensor), largest in ((latent, _MAX_LATENT), (rope, _MAX_ROPE)):
        size = tensor.shape[-1] if tensor.dim() else 0
        if not 16 <= size <= largest or size & (size - 1) or tensor.shape[0] < 1:
            raise ArgumentError(
                f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted at least one row, and a last dimension that "
                f"is a power of 2 from 16 to {largest}"
            )
        check_adjacent(kernel, name, tensor)
        sizes.append(size)
    kv_lora, rope_dim = sizes
    if cache.dim() != 3 or cache.shape[0] < 1 or cache.shape[1:] != (PAGE, kv_lora + rope_dim):
        raise ArgumentError(
            f"{kernel}: cache has shape {tuple(cache.shape)}; wanted (pages, {PAGE}, {kv_lora + rope_dim})"
        )
    check_contiguous(kernel, "cache", cache)
    if cache.data_ptr() % 16:
        raise ArgumentError(f"{kernel}: cache begins at {cache.data_ptr():#x}; wanted a multiple of 16 bytes")
    return kv_lora, rope_dim


def check_table(kernel: str, block_table: Tensor, lengths: Tensor, batch: int, cache: Tensor) -> int:
    """How many pages a sequence may have; ArgumentError unless the block table and the lengths fit the batch."""
    max_pages = block_table.shape[-1] if block_table.dim() == 2 else 0
    if max_pages < 1:
        raise ArgumentError(
            f"{kernel}: block_table has shape {tuple(block_table.shape)}; wanted ({batch}, max_pages), at least 1 page"
        )
    check_index(kernel, "block_table", block_table, (max(batch, len(block_table)), max_pages), like=cache)
    check_index(kernel, "lengths", lengths, (batch,), like=cache)
    return max_pages
