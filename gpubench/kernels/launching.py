"""Launches that remember the compiled kernel they come to: Triton takes most of a launch's time to find it again.

A launch by `kernel[grid](…)` looks at every argument, its type, its alignment and what divides it, to choose among what
was compiled. In a step that is launched over and over that choice is always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from gpubench.kernels.dependent_launch import has_dependent_launch
from gpubench.kernels.interpreter import is_interpreted

__all__ = ["Launcher"]

_ALIGNMENT = 16
"""Bytes: what Triton asks of an address before it assumes anything."""


class Launcher:
    """A Triton kernel whose parameters are tensors (or their descriptors), then numbers, then constants.

    One that `is_dependent` keeps the rules of gpubench.kernels.dependent_launch; its last constant is IS_DEPENDENT.
    """

    def __init__(self, kernel: Any, *, is_dependent: bool = False) -> None:
        self._kernel, self._is_dependent = kernel, is_dependent
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: Sequence[Any],
        numbers: Sequence[int | float],
        constants: Mapping[str, int | str],
        *,
        num_warps: int,
    ) -> None:
        """Launch on the current device and stream. `constants` are named in the kernel's order."""
        is_dependent = self._is_dependent and has_dependent_launch()
        options = {"num_warps": num_warps, "launch_pdl": is_dependent}
        if self._is_dependent:
            constants = {**constants, "IS_DEPENDENT": is_dependent}
        if is_interpreted():
            self._kernel[grid](*tensors, *numbers, **constants, **options)
            return
        # All that a compilation depends on: of a number its value, of a tensor its dtype, and whether it is aligned.
        key = (
            torch.cuda.current_device(),
            num_warps,
            *numbers,
            *constants.values(),
            *[_kind(tensor) for tensor in tensors],
        )
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = self._kernel[grid](*tensors, *numbers, **constants, **options)
        else:
            compiled[grid](*tensors, *numbers, *constants.values())


def _kind(tensor: Any) -> Any:
    """Of a tensor what a compilation depends on; a descriptor's maker has seen to its alignment."""
    if isinstance(tensor, torch.Tensor):
        return tensor.dtype if tensor.data_ptr() % _ALIGNMENT == 0 else (tensor.dtype, "unaligned")
    return tensor.base.dtype, *tensor.block_shape
