"""What the launchers of the gated delta rule check alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_launchable

__all__ = [
    "CHUNK",
    "GATE_FLOOR",
    "KEY_DIMS",
    "Sizes",
    "check_block_v",
    "check_float32",
    "check_out",
    "check_sizes",
    "check_state",
]

CHUNK = 64
"""Tokens that the chunked form takes at a time."""

GATE_FLOOR = -30.0
"""The chunked form's smallest g: of a state that fades by e^-30 float32 keeps nothing, and −inf − −inf would be NaN."""

KEY_DIMS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Sizes:
    """What q, k and v agree on: `rows` are sequences of one token each, or all tokens of all sequences."""

    rows: int
    key_heads: int
    heads: int
    k: int
    v: int


def check_sizes(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> Sizes:
    """The sizes, of q and k [rows, key_heads, K] and v [rows, heads, V]; ArgumentError if they don't fit together."""
    check_launchable(kernel, "q", q)
    if q.dim() != 3 or min(q.shape) < 1 or q.shape[2] not in KEY_DIMS:
        raise ArgumentError(f"{kernel}: q has shape {tuple(q.shape)}; wanted (rows, key_heads, K), K one of {KEY_DIMS}")
    rows, key_heads, dim_k = q.shape
    if v.dim() != 3 or v.shape[0] != rows or v.shape[1] < 1 or v.shape[1] % key_heads:
        raise ArgumentError(
            f"{kernel}: v has shape {tuple(v.shape)}; wanted ({rows}, heads, V), heads a multiple of {key_heads}"
        )
    heads, dim_v = v.shape[1:]
    if dim_v < 16 or dim_v & (dim_v - 1):
        raise ArgumentError(f"{kernel}: v has shape {tuple(v.shape)}; wanted V a power of two from 16 on")
    _check_heads(kernel, "q", q, (rows, key_heads, dim_k), like=q)
    _check_heads(kernel, "k", k, (rows, key_heads, dim_k), like=q)
    _check_heads(kernel, "v", v, (rows, heads, dim_v), like=q)
    return Sizes(rows, key_heads, heads, dim_k, dim_v)


def check_out(kernel: str, out: Tensor, v: Tensor) -> None:
    """Raise ArgumentError unless `out` is like v."""
    _check_heads(kernel, "out", out, tuple(v.shape), like=v)


def _check_heads(kernel: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tensor.shape != shape:
        raise ArgumentError(f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted {shape}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ArgumentError(
            f"{kernel}: {name} is {tensor.dtype} on {tensor.device}; wanted {like.dtype} on {like.device}"
        )
    if tensor.stride()[1:] != (shape[2], 1):
        raise ArgumentError(
            f"{kernel}: {name} has strides {tensor.stride()}; wanted the heads of a row adjacent: {shape[2]} and 1"
        )


def check_float32(kernel: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ArgumentError unless `tensor` is float32, has this shape, is contiguous and on the device of `like`."""
    if tensor.shape != shape:
        raise ArgumentError(f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted {shape}")
    if tensor.dtype is not torch.float32 or tensor.device != like.device:
        raise ArgumentError(f"{kernel}: {name} is {tensor.dtype} on {tensor.device}; wanted float32 on {like.device}")
    check_contiguous(kernel, name, tensor)


def check_state(kernel: str, state: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise ArgumentError unless `state` has this shape, one of these dtypes, and is contiguous."""
    if state.shape != shape:
        raise ArgumentError(f"{kernel}: state has shape {tuple(state.shape)}; wanted {shape}")
    if state.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ArgumentError(f"{kernel}: state is {state.dtype}; wanted {wanted}")
    check_launchable(kernel, "state", state)
    check_contiguous(kernel, "state", state)


def check_block_v(kernel: str, block_v: int, dim_v: int, known: tuple[int, ...]) -> None:
    """Raise ArgumentError unless a program can have `block_v` columns of V."""
    if block_v not in known or dim_v % block_v:
        raise ArgumentError(f"{kernel}: block_v is {block_v}; wanted one of {known} that divides V = {dim_v}")
