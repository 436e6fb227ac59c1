"""How the kernels for Hopper GPUs (compute capability 9.0) bring a page of the latent cache into shared memory.

A page is 64 rows of R + P elements, in one piece: the tensor memory accelerator copies it in boxes, asked for by one
thread, and a barrier in shared memory tells when it has arrived. In 16-bit elements and the swizzle that the tensor
cores read, so that the same copy serves as keys and, transposed, as values.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from gpubench.kernels.mla_cache import PAGE

__all__ = ["ROPE", "SHARED", "clear_rows", "describe"]

ROPE = 64
"""The one size of rotary keys that these kernels take: a row of it is what the swizzle spans."""

SHARED = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)


@dataclass(frozen=True)
class _Address:
    """What a launch asks of a descriptor's tensor, without keeping the tensor alive."""

    pointer: int
    dtype: torch.dtype

    def data_ptr(self) -> int:
        return self.pointer


def describe(cache: Tensor, width: int) -> tuple[TensorDescriptor, TensorDescriptor]:
    """The cache [pages, 64, R + P] as rows, to be copied by pages: `width` columns of latents, and the rotary keys."""
    return _describe(cache.data_ptr(), cache.dtype, cache.shape[0], cache.shape[2], width)


@functools.lru_cache(maxsize=1024)
def _describe(
    pointer: int, dtype: torch.dtype, pages: int, dim: int, width: int
) -> tuple[TensorDescriptor, TensorDescriptor]:
    # Kept, for making them takes longer than some of the kernels: a model has as many caches as layers.
    rows = (_Address(pointer, dtype), [pages * PAGE, dim], [dim, 1])
    return TensorDescriptor(*rows, [PAGE, width], SHARED), TensorDescriptor(*rows, [PAGE, ROPE], SHARED)


@gluon.jit
def clear_rows(page, live):
    """Zero the rows of a page [64, width] in shared memory from `live` on.

    No token has written them. They may hold NaN, which a weight of 0 would not silence.
    """
    WIDTH: gl.constexpr = page.shape[1]
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [1, 32], [4, 1], [1, 0])  # of one warp group
    n = gl.arange(0, 16, gl.SliceLayout(1, LAYOUT))
    zero = gl.zeros([16, WIDTH], page.dtype, LAYOUT)
    for part in gl.static_range(4):  # a quarter at a time takes a quarter of the registers
        rows = page.slice(part * 16, 16, dim=0)
        rows.store(gl.where((part * 16 + n < live)[:, None], rows.load(LAYOUT), zero))
    fence_async_shared()
