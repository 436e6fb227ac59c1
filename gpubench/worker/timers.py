"""Who reads the clock in the timing pass: CUDA events, or the host's wall clock.

Both time a step from an idle device to its end, so that the host's part of launching is inside. `blocked` has those
that leave it out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from gpubench.records import Timer
from gpubench.registry import Step
from gpubench.worker.device import Device

__all__ = ["Account", "CudaEventTimer", "StepTimer", "WallTimer", "seconds_between"]

SHORT_S = 1e-6
"""Below this, reading the wall clock is a visible part of what it reads …"""
BATCH_S = 10e-6
"""… and a sample holds so many steps that it lasts about this long."""
MAX_REPEATS = 1000


@dataclass(frozen=True)
class Account:
    """What a timer's samples turned out to be."""

    launch: str
    """What of the launching is in them, in words; it begins with the kind of launch."""
    warnings: list[str] = field(default_factory=list)


FROM_IDLE = Account("idle: the step is called when the GPU has nothing to do; a sample holds the host's part too")


class StepTimer(Protocol):
    """Times a step."""

    kind: Timer

    def calibrate(self, step: Step) -> int:
        """How many steps in a row one sample must hold for this clock to resolve them."""
        ...

    def time(self, step: Step, repeats: int) -> float:
        """Seconds per step, over so many of them in a row; the device is idle before and after."""
        ...

    def account(self) -> Account:
        """What the samples since the calibration mean."""
        ...


class CudaEventTimer:
    """Two events on the current stream around the step; they tick in half microseconds or better."""

    kind = Timer.CUDA_EVENT

    def __init__(self, device: Device) -> None:
        self._synchronize = device.synchronize
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def calibrate(self, step: Step) -> int:
        return 1

    def time(self, step: Step, repeats: int) -> float:
        self._synchronize()
        self._start.record()
        for _ in range(repeats):
            step()
        self._end.record()
        self._end.synchronize()
        return seconds_between(self._start, self._end) / repeats

    def account(self) -> Account:
        return FROM_IDLE


class WallTimer:
    """The host's monotonic clock, with the device waited for on both sides."""

    kind = Timer.WALL

    def __init__(self, synchronize: Callable[[], None], clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._synchronize = synchronize
        self._clock_ns = clock_ns

    def calibrate(self, step: Step) -> int:
        shortest_s = min(self.time(step, 1) for _ in range(3))
        if shortest_s >= SHORT_S:
            return 1
        return min(MAX_REPEATS, math.ceil(BATCH_S / max(shortest_s, 1e-9)))

    def time(self, step: Step, repeats: int) -> float:
        self._synchronize()
        start_ns = self._clock_ns()
        for _ in range(repeats):
            step()
        self._synchronize()
        return (self._clock_ns() - start_ns) * 1e-9 / repeats

    def account(self) -> Account:
        return FROM_IDLE


def seconds_between(start: Any, end: Any) -> float:
    """From one event of torch's to another that has passed."""
    return float(start.elapsed_time(end)) * 1e-3
