"""Empties the GPU's L2 cache between samples, so that every step finds its inputs where a real one would."""

from __future__ import annotations

from typing import Literal

import torch

from gpubench.worker.device import Device

__all__ = ["L2Flush"]

BUFFER_PER_L2 = 2
"""Twice the cache is written, so that no replacement policy keeps a line of the step's."""


class L2Flush:
    """Overwrites a buffer larger than the L2 when called; does nothing unless that is wanted, and on a CPU."""

    def __init__(self, device: Device, wanted: Literal["cold", "hot", "rotate"]) -> None:
        self._buffer = None
        self.state = wanted if device.is_cuda else "n/a"
        """For the record: what was wanted, or `n/a` on a CPU."""
        if self.state == "cold":
            with device.default():
                self._buffer = torch.empty(BUFFER_PER_L2 * device.l2_bytes, dtype=torch.int8)

    def state_of(self, steps: int) -> str:
        """The state that so many steps in a row find: a flush makes it cold for the first alone."""
        return "hot" if self.state == "cold" and steps > 1 else self.state

    def __call__(self) -> None:
        """Queue the overwriting; the caller synchronises before it times anything."""
        if self._buffer is not None:
            self._buffer.zero_()
