"""Triton's interpreter, which runs kernels on a CPU: whether it is on, and what it can't be trusted with."""

from __future__ import annotations

import functools

__all__ = ["is_interpreted"]


@functools.cache  # Triton, too, decides once: when a kernel's module is imported
def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set before they were imported."""
    import triton

    return bool(triton.knobs.runtime.interpret)
