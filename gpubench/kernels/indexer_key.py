"""The new token's key of a sparse-attention indexer, written to the indexer's cache in place.

    keys[b, lengths[b] − 1] = rotate(LayerNorm(x[b]))

x [B, D] of one of float32, float16 and bfloat16, rows adjacent; the norm's scale and shift [D]; rotary [2, P / 2],
float32: cos and sin of the new token's angles, which turn the first P of D, halves paired; keys [B, columns, D];
lengths int32 [B], the new token counted already, 0 for a padded row. All is computed in float32 and rounded once.
"""

from __future__ import annotations

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
    check_scratch,
)
from gpubench.kernels.ops import as_op

__all__ = ["indexer_key"]


@triton.jit
def _normalised(x, scale, shift, place, mask, mean, spread):
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(scale + place, mask=mask, other=0.0).to(tl.float32)
    return (value - mean) * spread * weight + tl.load(shift + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _key_kernel(
    x,
    scale,
    shift,
    rotary,
    keys,
    lengths,
    x_stride,
    key_stride,
    dim,
    half_size,
    eps,
    DIM: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    last = tl.load(lengths + b) - 1
    if last < 0:
        return
    x += b * x_stride
    target = keys + b * key_stride + last * dim
    place = tl.arange(0, DIM)
    inside = place < dim
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=0) / dim
    centred = tl.where(inside, value - mean, 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, axis=0) / dim + eps)
    own = _normalised(x, scale, shift, place, inside, mean, spread)
    is_turned = place < 2 * half_size
    is_first = place < half_size
    # The other of each pair, normalised once more rather than moved between threads.
    other = _normalised(
        x, scale, shift, tl.where(is_first, place + half_size, place - half_size), is_turned, mean, spread
    )
    half = tl.where(is_first, place, place - half_size)
    cos = tl.load(rotary + half, mask=is_turned, other=1.0)
    sin = tl.load(rotary + half_size + half, mask=is_turned, other=0.0)
    turned = own * cos + tl.where(is_first, -other, other) * sin
    tl.store(target + place, turned.to(keys.dtype.element_ty), mask=inside)


@as_op("indexer_key", mutates=("keys",))
def indexer_key(
    x: Tensor, scale: Tensor, shift: Tensor, rotary: Tensor, keys: Tensor, lengths: Tensor, eps: float
) -> None:
    """Write the key. Neither allocates nor synchronises; ArgumentError names an argument that doesn't fit."""
    kernel = "indexer_key"
    check_launchable(kernel, "keys", keys)
    if keys.dim() != 3 or min(keys.shape) < 1 or keys.shape[2] > 1024:
        raise ArgumentError(f"{kernel}: keys has shape {tuple(keys.shape)}; wanted (batch, columns, 1 to 1024)")
    batch, _, dim = keys.shape
    check_operand(kernel, "x", x, (batch, dim), like=keys)
    check_operand(kernel, "scale", scale, (dim,), like=keys)
    check_operand(kernel, "shift", shift, (dim,), like=keys)
    check_adjacent(kernel, "x", x)
    check_contiguous(kernel, "keys", keys)
    if rotary.dim() != 2 or rotary.shape[0] != 2 or 2 * rotary.shape[1] > dim:
        raise ArgumentError(
            f"{kernel}: rotary has shape {tuple(rotary.shape)}; wanted (2, up to {dim // 2}), pairs of {dim} dimensions"
        )
    check_scratch(kernel, "rotary", rotary, rotary.numel(), like=keys)
    check_index(kernel, "lengths", lengths, (batch,), like=keys)
    _key_kernel[(batch,)](
        x,
        scale,
        shift,
        rotary,
        keys,
        lengths,
        x.stride(0),
        keys.stride(0),
        dim,
        rotary.shape[1],
        eps,
        DIM=triton.next_power_of_2(dim),
        num_warps=1,
    )
