"""What launchers check before a launch: each error names the kernel, the argument, what it got, and the limit."""

from __future__ import annotations

import torch
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.interpreter import is_interpreted

__all__ = ["check_launchable", "check_operand"]

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_launchable(kernel: str, name: str, tensor: Tensor) -> None:
    """Raise ArgumentError unless a Triton kernel can run on `tensor`, by its device and its dtype."""
    if tensor.dtype not in _FLOATS:
        raise ArgumentError(f"{kernel}: {name} is {tensor.dtype}; the kernel takes float32, float16 and bfloat16")
    if is_interpreted():
        if tensor.dtype is torch.bfloat16:
            # Seen with Triton 3.7: a bfloat16 addition off by 3e38, without a warning.
            raise ArgumentError(
                f"{kernel}: {name} is bfloat16, which Triton's interpreter computes wrongly; "
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
