"""Floating-point types as axes: named as torch names them."""

from __future__ import annotations

from typing import Literal

import torch

__all__ = ["FloatType", "itemsize", "torch_dtype"]

FloatType = Literal["bfloat16", "float16", "float32"]

_DTYPES: dict[FloatType, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def torch_dtype(name: FloatType) -> torch.dtype:
    """The torch dtype of that name."""
    return _DTYPES[name]


def itemsize(name: FloatType) -> int:
    """Bytes per element."""
    return _DTYPES[name].itemsize
