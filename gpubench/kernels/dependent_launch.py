"""Programmatic dependent launch: a kernel that starts while the one before it still runs, and waits for it inside.

A step of few rows is hundreds of kernels of microseconds each, and between two of them a GPU drains and fills again. A
kernel launched this way may fetch what no kernel writes, its weights, before it calls `wait`; behind `wait`, all that
came before it on the stream is done and can be seen. So whoever is launched this way

- calls `wait` in every program before it reads what another kernel wrote, and before it writes anything;
- calls `release` as early as the next kernel may start, which is when all programs have. What that one reads before its
  own `wait` must have been done by then: nothing that the releasing kernel wrote, and, where that one releases before
  its `wait`, nothing that any kernel wrote.

Compute capability 9.0 and later; elsewhere both are nothing. After CUDA's Programming Guide, "Programmatic Dependent
Launch and Synchronization".
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from gpubench.kernels.interpreter import is_interpreted

__all__ = ["has_dependent_launch", "release", "wait"]


@triton.jit
def wait(IS_DEPENDENT: tl.constexpr):
    """Until all kernels before this one are done."""
    if IS_DEPENDENT:
        gdc_wait()


@triton.jit
def release(IS_DEPENDENT: tl.constexpr):
    """Let the next kernel start."""
    if IS_DEPENDENT:
        gdc_launch_dependents()


def has_dependent_launch() -> bool:
    """Whether the current GPU has it: what launchers pass as `launch_pdl` and as IS_DEPENDENT."""
    return not is_interpreted() and _is_capable(torch.cuda.current_device())


@functools.cache
def _is_capable(device: int) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 9
