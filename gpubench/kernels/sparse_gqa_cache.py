"""The paged caches that block-sparse attention reads, and what its launchers check of them.

A page is a block: `block` tokens. A cache is [pages, …, block, dim]; the pages of row b, in the order of its tokens,
are `block_table[b]`, of which its first ⌈lengths[b] / block⌉ entries count. The rest may hold anything, and so may what
lies in the last page beyond the length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent

__all__ = ["BLOCKS", "check_block", "check_int32", "check_table"]

BLOCKS = (16, 32, 64, 128)
"""Tokens per page that the kernels take: a page is a tile of a matrix product."""


def check_block(kernel: str, name: str, cache: Tensor, dimensions: str) -> int:
    """How many tokens a page of `cache` has; ArgumentError unless its shape is as `dimensions` says."""
    wanted = dimensions.count(",") + 1
    if cache.dim() != wanted or min(cache.shape) < 1 or cache.shape[-2] not in BLOCKS:
        blocks = ", ".join(map(str, BLOCKS))
        raise ArgumentError(
            f"{kernel}: {name} has shape {tuple(cache.shape)}; wanted ({dimensions}), a block of {blocks} tokens"
        )
    return int(cache.shape[-2])


def check_table(kernel: str, block_table: Tensor, lengths: Tensor, rows: int, like: Tensor) -> None:
    """ArgumentError unless block_table is [rows, max_blocks] and lengths [rows], int32 and where `like` is."""
    if block_table.dim() != 2 or block_table.shape[0] != rows or block_table.shape[1] < 1:
        raise ArgumentError(
            f"{kernel}: block_table has shape {tuple(block_table.shape)}; wanted ({rows}, max_blocks), at least 1 block"
        )
    if lengths.shape != (rows,):
        raise ArgumentError(f"{kernel}: lengths has shape {tuple(lengths.shape)}; wanted ({rows},)")
    for name, tensor in (("block_table", block_table), ("lengths", lengths)):
        check_int32(kernel, name, tensor, like)


def check_int32(kernel: str, name: str, tensor: Tensor, like: Tensor) -> None:
    """ArgumentError unless `tensor` is int32, where `like` is, its last elements adjacent."""
    if tensor.dtype != torch.int32 or tensor.device != like.device:
        raise ArgumentError(
            f"{kernel}: {name} is {tensor.dtype} on {tensor.device}; wanted torch.int32 on {like.device}"
        )
    check_adjacent(kernel, name, tensor)
