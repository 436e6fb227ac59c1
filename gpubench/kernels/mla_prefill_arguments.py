"""What the launchers of MLA prefill check: each error names the kernel, the argument, what it got, and the limit."""

from __future__ import annotations

from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_index, check_launchable, check_operand, check_scratch
from gpubench.kernels.mla_prefill_tiling import MAX_SPLITS, split_nope

__all__ = ["check_cache", "check_offsets", "check_queries", "check_splits", "check_whole", "check_widths", "is_width"]

MAX_SEQUENCES = 4096
"""A program finds its sequence by looking at all of them at once."""


def is_width(size: int) -> bool:
    """Whether a kernel can take it as the width of a tile."""
    return 16 <= size <= 512 and size & (size - 1) == 0


def check_whole(kernel: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """ArgumentError unless `tensor` is contiguous, of this shape, and of the dtype and device of `like`."""
    check_operand(kernel, name, tensor, shape, like)
    check_contiguous(kernel, name, tensor)


def check_queries(kernel: str, q: Tensor) -> tuple[int, int, int]:
    """T, H and N + P."""
    check_launchable(kernel, "q", q)
    if q.dim() != 3 or min(q.shape) < 1:
        raise ArgumentError(f"{kernel}: q has shape {tuple(q.shape)}; wanted (tokens, heads, N + P), each at least 1")
    check_contiguous(kernel, "q", q)
    tokens, heads, dim = q.shape
    return tokens, heads, dim


def check_cache(kernel: str, cache: Tensor, latent: int, like: Tensor) -> tuple[int, int]:
    """K and P."""
    dim = like.shape[-1]
    keys, width = cache.shape if cache.dim() == 2 else (0, 0)
    rope = width - latent
    if keys < 1 or not is_width(latent) or not is_width(rope) or rope >= dim:
        raise ArgumentError(
            f"{kernel}: cache has shape {tuple(cache.shape)} for a latent of {latent} and queries of {dim}; wanted "
            f"(keys, R + P), both powers of 2 from 16 to 512, P less than {dim}"
        )
    check_whole(kernel, "cache", cache, (keys, width), like)
    return keys, rope


def check_offsets(kernel: str, cu_q: Tensor, cu_k: Tensor, like: Tensor) -> int:
    """S."""
    sequences = cu_q.shape[0] - 1 if cu_q.dim() == 1 else 0
    if not 1 <= sequences <= MAX_SEQUENCES:
        raise ArgumentError(
            f"{kernel}: cu_q has shape {tuple(cu_q.shape)}; wanted (sequences + 1,), 1 to {MAX_SEQUENCES} sequences"
        )
    check_index(kernel, "cu_q", cu_q, (sequences + 1,), like)
    check_index(kernel, "cu_k", cu_k, (sequences + 1,), like)
    return sequences


def check_splits(kernel: str, partial: Tensor, partial_lse: Tensor, out: Tensor) -> int:
    """The scratch's number of splits, 0 if there is nothing to merge; ArgumentError unless it has room for them."""
    splits = partial.shape[0] if partial.dim() == 4 else -1
    if splits == 1 or not 0 <= splits <= MAX_SPLITS:
        raise ArgumentError(
            f"{kernel}: partial has shape {tuple(partial.shape)}; wanted (splits, tokens, heads, width), splits 0 or "
            f"from 2 to {MAX_SPLITS}"
        )
    for name, tensor, shape in (("partial", partial, out.shape), ("partial_lse", partial_lse, out.shape[:2])):
        if tensor.shape != (splits, *shape):
            raise ArgumentError(f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted {(splits, *shape)}")
        check_scratch(kernel, name, tensor, tensor.numel(), like=out)
    return splits


def check_widths(kernel: str, nope: int, v: int) -> None:
    """ArgumentError unless tiles can be as wide as a head's keys and values."""
    if not is_width(v) or not all(part == 0 or is_width(part) for part in split_nope(nope)):
        raise ArgumentError(
            f"{kernel}: N is {nope} and V {v}; wanted V a power of 2 from 16 to 512, N such a power or a sum of two"
        )
