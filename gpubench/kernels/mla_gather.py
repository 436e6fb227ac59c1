"""Selected tokens of a paged latent cache, gathered side by side: what attention over a selection reads.

    gathered[b, s] = the cache's entry of token indices[b, s] of sequence b,   s < k

indices int32 [B, k], in any order; where one is not a token of its sequence, −1 for instance, nothing is written.
gathered [B · ⌈k / 64⌉, 64, R + P] is a paged cache again: sequence b has ⌈k / 64⌉ pages of it, from b · ⌈k / 64⌉ on.
The cache, its block table and the lengths are laid out as mla_cache.py says. Entries are copied bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_index, check_launchable, check_operand
from gpubench.kernels.launching import Launcher, Planned
from gpubench.kernels.mla_cache import PAGE, check_table
from gpubench.kernels.ops import as_op

__all__ = ["mla_gather"]

_BLOCK = 8
"""Entries per program: of 576 bfloat16, 9 KB in flight. Not tuned."""


@triton.jit
def _gather_kernel(
    cache,
    table,
    lengths,
    indices,
    gathered,
    table_stride,
    k,
    room,
    width,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(indices + b * k + slot, mask=slot < k, other=-1)
    is_token = (token >= 0) & (token < tl.load(lengths + b))
    page = tl.load(table + b * table_stride + token // PAGE, mask=is_token, other=0).to(tl.int64)
    source = cache + (page * PAGE + token % PAGE) * width
    target = gathered + (b * room + slot) * width
    place = tl.arange(0, WIDTH)
    inside = is_token[:, None] & (place < width)[None, :]
    entry = tl.load(source[:, None] + place[None, :], mask=inside, other=0.0)
    tl.store(target[:, None] + place[None, :], entry, mask=inside)


@as_op("mla_gather", mutates=("gathered",))
def mla_gather(cache: Tensor, block_table: Tensor, lengths: Tensor, indices: Tensor, gathered: Tensor) -> None:
    """Copy the selected entries. Neither allocates nor synchronises; ArgumentError names what doesn't fit."""
    _LAUNCH((cache, block_table, lengths, indices, gathered))


def _prepare(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    cache, block_table, lengths, indices, gathered = tensors
    kernel = "mla_gather"
    check_launchable(kernel, "cache", cache)
    if cache.dim() != 3 or cache.shape[0] < 1 or cache.shape[1] != PAGE:
        raise ArgumentError(f"{kernel}: cache has shape {tuple(cache.shape)}; wanted (pages, {PAGE}, R + P)")
    batch, k = indices.shape if indices.dim() == 2 else (0, 0)
    if batch < 1 or k < 1:
        raise ArgumentError(f"{kernel}: indices has shape {tuple(indices.shape)}; wanted (batch, k), at least 1 each")
    pages, width = triton.cdiv(k, PAGE), cache.shape[2]
    check_index(kernel, "indices", indices, (batch, k), like=cache)
    check_operand(kernel, "gathered", gathered, (batch * pages, PAGE, width), like=cache)
    check_table(kernel, block_table, lengths, batch, cache)
    for name, tensor in (("cache", cache), ("gathered", gathered)):
        check_contiguous(kernel, name, tensor)
    launch = _LAUNCHER.prepare(
        (block_table.stride(0), k, pages * PAGE, width),
        {"BLOCK": _BLOCK, "WIDTH": triton.next_power_of_2(width), "PAGE": PAGE},
        num_warps=4,
    )
    grid = (triton.cdiv(k, _BLOCK), batch, 1)
    return lambda tensors: launch(grid, tensors)


_LAUNCHER, _LAUNCH = Launcher(_gather_kernel), Planned(_prepare)
