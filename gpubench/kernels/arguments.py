"""What launchers check before a launch: each error names the kernel, the argument, what it got, and the limit."""

from __future__ import annotations

import torch
from torch import Tensor

from gpubench.errors import ArgumentError, Unsupported
from gpubench.kernels.interpreter import is_interpreted

__all__ = [
    "check_adjacent",
    "check_contiguous",
    "check_index",
    "check_launchable",
    "check_operand",
    "check_reach",
    "check_scratch",
    "last_size",
]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INT32_MAX = 2**31 - 1


def last_size(tensor: Tensor) -> int:
    """The size of the last dimension; 0 of a tensor that has none."""
    return tensor.shape[-1] if tensor.dim() else 0


def check_launchable(kernel: str, name: str, tensor: Tensor) -> None:
    """Raise ArgumentError unless a Triton kernel can run on `tensor`, by its device and its dtype.

    Unsupported, which skips a cell, where a GPU could, but the interpreter can't.
    """
    if tensor.dtype not in _FLOATS:
        raise ArgumentError(f"{kernel}: {name} is {tensor.dtype}; the kernel takes float32, float16 and bfloat16")
    if is_interpreted():
        if tensor.dtype is torch.bfloat16:
            # Seen with Triton 3.7: a bfloat16 addition off by 3e38, without a warning.
            raise Unsupported(
                f"{kernel}: {name} has dtype bfloat16, which Triton's interpreter computes wrongly; "
                "under TRITON_INTERPRET=1 use float32 or float16"
            )
    elif not tensor.is_cuda:
        raise ArgumentError(
            f"{kernel}: {name} is on {tensor.device}; Triton needs a GPU, or TRITON_INTERPRET=1 set from the start"
        )
    elif tensor.device.index != torch.cuda.current_device():
        raise ArgumentError(
            f"{kernel}: {name} is on {tensor.device}, but the current device is cuda:{torch.cuda.current_device()}, "
            "where the kernel would run"
        )


def check_operand(kernel: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ArgumentError unless `tensor` has this shape, and the dtype and device of `like`."""
    if tensor.shape != shape:
        raise ArgumentError(f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted {shape}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise ArgumentError(
            f"{kernel}: {name} is {tensor.dtype} on {tensor.device}; wanted {like.dtype} on {like.device}"
        )


def check_adjacent(kernel: str, name: str, tensor: Tensor) -> None:
    """Raise ArgumentError unless the elements along the last dimension are adjacent."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ArgumentError(f"{kernel}: {name} has stride {tensor.stride(-1)} along its last dimension; wanted 1")


def check_contiguous(kernel: str, name: str, tensor: Tensor) -> None:
    """Raise ArgumentError unless `tensor` is contiguous."""
    if not tensor.is_contiguous():
        raise ArgumentError(
            f"{kernel}: {name} of shape {tuple(tensor.shape)} has strides {tensor.stride()}; wanted it contiguous"
        )


def check_reach(kernel: str, name: str, tensor: Tensor, dim: int, steps: int) -> None:
    """Raise ArgumentError if `steps` strides along `dim` are more than the 32 bits that a kernel counts in."""
    if tensor.stride(dim) * steps > _INT32_MAX:
        raise ArgumentError(
            f"{kernel}: {name} has stride {tensor.stride(dim):,} along dimension {dim}; "
            f"wanted {_INT32_MAX // steps:,} at most, so that {steps} of them fit 32 bits"
        )


def check_index(kernel: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ArgumentError unless `tensor` is int32, has this shape, is contiguous, and lies on the device of `like`."""
    if tensor.shape != shape:
        raise ArgumentError(f"{kernel}: {name} has shape {tuple(tensor.shape)}; wanted {shape}")
    if tensor.dtype is not torch.int32 or tensor.device != like.device:
        raise ArgumentError(f"{kernel}: {name} is {tensor.dtype} on {tensor.device}; wanted int32 on {like.device}")
    check_contiguous(kernel, name, tensor)


def check_scratch(kernel: str, name: str, tensor: Tensor, elements: int, like: Tensor) -> None:
    """Raise ArgumentError unless `tensor` is float32, contiguous, on the device of `like`, and of enough elements."""
    if tensor.dtype is not torch.float32 or tensor.device != like.device:
        raise ArgumentError(f"{kernel}: {name} is {tensor.dtype} on {tensor.device}; wanted float32 on {like.device}")
    check_contiguous(kernel, name, tensor)
    if tensor.numel() < elements:
        raise ArgumentError(f"{kernel}: {name} has {tensor.numel():,} elements; this launch needs {elements:,}")
