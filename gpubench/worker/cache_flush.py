"""Empties the GPU's L2 cache between samples, so that every step finds its inputs where a real one would."""

from __future__ import annotations

import torch

from gpubench.worker.device import Device

__all__ = ["L2Flush"]

BUFFER_PER_L2 = 2
"""Twice the cache is written, so that no replacement policy keeps a line of the step's."""


class L2Flush:
    """Overwrites a buffer larger than the L2 when called; does nothing where the cache is to stay hot, or on a CPU."""

    def __init__(self, device: Device, is_cold: bool) -> None:
        self._buffer = None
        self.state = "cold" if is_cold else "hot"
        """For the record: `cold`, `hot`, or `n/a` on a CPU."""
        if not device.is_cuda:
            self.state = "n/a"
        elif is_cold:
            with device.default():
                self._buffer = torch.empty(BUFFER_PER_L2 * device.l2_bytes, dtype=torch.int8)

    def __call__(self) -> None:
        """Queue the overwriting; the caller synchronises before it times anything."""
        if self._buffer is not None:
            self._buffer.zero_()
