"""Who reads the clock in the timing pass: CUDA events, or the host's wall clock.

Both time a step from an idle device to its end, so that the host's part of launching is inside; what the GPU alone
did is the profile pass's to say.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from gpubench.errors import UsageError
from gpubench.records import Timer
from gpubench.registry import Step
from gpubench.worker.device import Device

__all__ = ["ChosenTimer", "CudaEventTimer", "StepTimer", "WallTimer", "choose_timer"]

SHORT_S = 1e-6
"""Below this, reading the wall clock is a visible part of what it reads …"""
BATCH_S = 10e-6
"""… and a sample holds so many steps that it lasts about this long."""
MAX_REPEATS = 1000


class StepTimer(Protocol):
    """Times a step."""

    kind: Timer

    def calibrate(self, step: Step) -> int:
        """How many steps in a row one sample must hold for this clock to resolve them."""
        ...

    def time(self, step: Step, repeats: int) -> float:
        """Seconds per step, over so many of them in a row; the device is idle before and after."""
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
        return float(self._start.elapsed_time(self._end)) * 1e-3 / repeats


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


@dataclass(frozen=True)
class ChosenTimer:
    """The timer of the timing pass, and in words why it is this one."""

    timer: StepTimer
    why: str


def choose_timer(wanted: Literal["auto", "nsys", "cupti", "cuda_event", "wall"], device: Device) -> ChosenTimer:
    """The timer for `measure.timer`; UsageError where it asks for what this device hasn't."""
    if wanted == "wall":
        return ChosenTimer(WallTimer(device.synchronize), "wall was asked for")
    if device.is_cuda:
        why = {"auto": "auto, on a GPU", "cuda_event": "cuda_event was asked for"}
        profiled = f"{wanted} times the profile pass; the timing pass runs without a profiler"
        return ChosenTimer(CudaEventTimer(device), why.get(wanted, profiled))
    if wanted in ("auto", "nsys"):
        why = {"auto": "auto, on a CPU", "nsys": "nsys times the profile pass; the timing pass is a CPU's"}
        return ChosenTimer(WallTimer(device.synchronize), why[wanted])
    raise UsageError(f"measure.timer: {wanted} needs a CUDA GPU, and this is {device.name}; use wall or auto")
