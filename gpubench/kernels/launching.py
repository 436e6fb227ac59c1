"""Launches that remember what they come to: finding it again takes most of a launch's time, and more than many kernels.

A launch by `kernel[grid](…)` looks at every argument, its type, its alignment and what divides it, to choose among what
was compiled; a launcher checks its arguments, and plans. In a step that is launched over and over all of that comes to
the same each time. Measured on an H200's host, 2026-11-21: `docs/mla_decode.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from gpubench.kernels.dependent_launch import has_dependent_launch
from gpubench.kernels.interpreter import is_interpreted

__all__ = ["Launch", "Launcher", "Planned"]

Grid = tuple[int, int, int]

_ALIGNMENT = 16
"""Bytes: what Triton asks of an address before it assumes anything."""
_MOST_KINDS = 4096
"""Of arguments that are remembered. Prompts of drawn lengths make a kind each: at so many all are forgotten."""


class Launcher:
    """A Triton kernel whose parameters are tensors (or their descriptors), then numbers, then constants.

    One that `is_dependent` keeps the rules of gpubench.kernels.dependent_launch; its last constant is IS_DEPENDENT.
    """

    def __init__(self, kernel: Any, *, is_dependent: bool = False) -> None:
        self._kernel, self._is_dependent = kernel, is_dependent
        self._launches: dict[tuple[Any, ...], Launch] = {}

    def __call__(
        self,
        grid: Grid,
        tensors: Sequence[Any],
        numbers: Sequence[int | float],
        constants: Mapping[str, int | str],
        *,
        num_warps: int,
    ) -> None:
        """Launch on the current device and stream. `constants` are named in the kernel's order."""
        # All that a compilation depends on: of a number its value, of a tensor its dtype, and whether it is aligned.
        key = (
            -1 if is_interpreted() else torch.cuda.current_device(),
            num_warps,
            *numbers,
            *constants.values(),
            *[_kind(tensor) for tensor in tensors],
        )
        launch = self._launches.get(key)
        if launch is None:
            launch = self.prepare(numbers, constants, num_warps=num_warps)
            _remember(self._launches, key, launch)
        launch(grid, tensors)

    def prepare(self, numbers: Sequence[int | float], constants: Mapping[str, int | str], **options: int) -> Launch:
        """A launch on the current device, for tensors that are always of the same dtypes and alignment."""
        if self._is_dependent:
            is_dependent = has_dependent_launch()
            options["launch_pdl"], constants = is_dependent, {**constants, "IS_DEPENDENT": is_dependent}
        return Launch(self._kernel, numbers, constants, options)


class Launch:
    """A kernel with its numbers and constants. The first call has Triton choose what is compiled; all others repeat it.

    They pass addresses, for Triton would ask the driver about every tensor, and call no hooks of Triton's profiler.
    """

    def __init__(
        self,
        kernel: Any,
        numbers: Sequence[int | float],
        constants: Mapping[str, int | str],
        options: Mapping[str, int],
    ) -> None:
        self._kernel, self._numbers, self._constants, self._options = kernel, numbers, constants, options
        self._run: Any = None

    def __call__(self, grid: Grid, tensors: Sequence[Any]) -> None:
        if self._run is None:
            self._launch_first(grid, tensors)
            return
        addresses = [t.data_ptr() if isinstance(t, Tensor) else t for t in tensors]
        stream = self._current_stream(self._device)
        self._run(*grid, stream, self._function, self._metadata, None, None, None, *addresses, *self._values)

    def _launch_first(self, grid: Grid, tensors: Sequence[Any]) -> None:
        compiled = self._kernel[grid](*tensors, *self._numbers, **self._constants, **self._options)
        if is_interpreted():
            return
        self._device = torch.cuda.current_device()
        self._current_stream = triton.runtime.driver.active.get_current_stream
        self._values = (*self._numbers, *self._constants.values())
        self._function, self._metadata, self._run = compiled.function, compiled.packed_metadata, compiled.run


class Planned:
    """A launcher that checks and plans once for each kind of arguments.

    `plan(tensors, *options)` raises for what doesn't fit, and otherwise gives what launches on tensors like these. It
    may depend on the options, the current device, and the tensors' shapes, strides, dtypes, devices and alignment.
    """

    def __init__(self, plan: Callable[..., Callable[[Sequence[Tensor]], None]]) -> None:
        self._plan = plan
        self._launches: dict[tuple[Any, ...], Callable[[Sequence[Tensor]], None]] = {}

    def __call__(self, tensors: Sequence[Tensor], *options: Any) -> None:
        key = [torch.cuda.current_device() if tensors[0].is_cuda else -1, *options]
        for t in tensors:
            key += t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % _ALIGNMENT
        kind = tuple(key)
        launch = self._launches.get(kind)
        if launch is None:
            launch = self._plan(tensors, *options)
            _remember(self._launches, kind, launch)
        launch(tensors)


def _remember(launches: dict[tuple[Any, ...], Any], kind: tuple[Any, ...], launch: Any) -> None:
    if len(launches) >= _MOST_KINDS:
        launches.clear()
    launches[kind] = launch


def _kind(tensor: Any) -> Any:
    """Of a tensor what a compilation depends on; a descriptor's maker has seen to its alignment."""
    if isinstance(tensor, Tensor):
        return tensor.dtype if tensor.data_ptr() % _ALIGNMENT == 0 else (tensor.dtype, "unaligned")
    return tensor.base.dtype, *tensor.block_shape
