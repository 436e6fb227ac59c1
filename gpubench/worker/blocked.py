"""Timers that keep the host out of a sample: the step is queued while a spinning kernel keeps the GPU busy.

What is behind that kernel then runs as fast as the GPU can, however slowly it was launched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Protocol

import torch

from gpubench.errors import UsageError
from gpubench.graphs.whole import capture_step
from gpubench.records import Timer
from gpubench.registry import Step
from gpubench.worker.device import Device
from gpubench.worker.failure import find_cause, is_out_of_memory
from gpubench.worker.timers import Account, seconds_between

__all__ = ["BlockedTimer", "CudaQueue", "GraphTimer", "Queue", "capture_steps", "graph_size"]

CALIBRATION_CYCLES = 2_000_000
"""About a millisecond, beside which the events' own microseconds don't count."""
SPIN_MARGIN = 2
SPIN_SLACK_S = 50e-6
"""The GPU spins for so many times as long as the host needs to queue a step, and a little longer."""
LONGEST_SPIN_S = 0.25
"""A step that takes the host longer to queue is mostly waiting for the GPU."""
ATTEMPTS = 3
VISIBLE_SHARE = 0.05
"""A median doesn't see fewer samples than these go wrong."""

GRAPH_S = 100e-6
"""A replay lasts at least about so long, so that the events' half microseconds don't show …"""
MOST_STEPS = 100
"""… but holds no more steps than this for its own sake."""


class Queue(Protocol):
    """What these timers put into the GPU's queue."""

    def synchronize(self) -> None: ...

    def spin(self, cycles: int) -> None:
        """A kernel that does nothing for so many of the GPU's clock cycles."""
        ...

    def event(self) -> Any:
        """An event that keeps the time, as torch's do."""
        ...


class CudaQueue:
    """The current stream of the device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def synchronize(self) -> None:
        self._device.synchronize()

    def spin(self, cycles: int) -> None:
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]

    def event(self) -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class BlockedTimer:
    """Two events around the step, queued with it behind a spinning kernel: they see the GPU's work alone.

    Whether that held is known of every sample: the first event must not have passed when the last launch returns. A
    step that synchronises, or launches more than the GPU's queue takes, can't be blocked; it is timed from idle.
    """

    kind = Timer.CUDA_EVENT

    def __init__(self, queue: Queue, clock: Callable[[], float] = time.perf_counter) -> None:
        self._queue = queue
        self._clock = clock
        self._start, self._end = queue.event(), queue.event()
        self._cycles_per_s = 0.0
        self._spin_s = 0.0
        self._samples = 0
        self._late = 0
        """Samples whose spinning was over before the host had queued the step."""

    @property
    def is_blocking(self) -> bool:
        return self._spin_s > 0

    def calibrate(self, step: Step) -> int:
        self._cycles_per_s = self._measure_clock()
        self._spin_s = min(SPIN_MARGIN * max(self._launch_s(step) for _ in range(3)) + SPIN_SLACK_S, LONGEST_SPIN_S)
        for _ in range(ATTEMPTS):
            self._samples = self._late = 0
            self.time(step, 1)
            if not self._late:
                break
            self._spin_s = min(2 * self._spin_s, LONGEST_SPIN_S)
        else:
            self._spin_s = 0.0
        self._samples = self._late = 0
        return 1

    def time(self, step: Step, repeats: int) -> float:
        self._queue.synchronize()
        if self.is_blocking:
            self._queue.spin(int(self._spin_s * self._cycles_per_s))
        self._start.record()
        for _ in range(repeats):
            step()
        self._end.record()
        self._samples += 1
        self._late += self.is_blocking and self._start.query()
        self._end.synchronize()
        return seconds_between(self._start, self._end) / repeats

    def account(self) -> Account:
        if not self.is_blocking:
            why = "the step waits for the GPU, or launches more than the GPU's queue takes"
            return Account(
                f"idle, for it can't be blocked: {why}; a sample holds the host's part too",
                [f"measure.launch: blocked is not to be had: {why}; samples are as with idle"],
            )
        meaning = f"blocked: queued behind a kernel that spins for {self._spin_s * 1e6:,.0f} µs; the GPU's part alone"
        if not self._late:
            return Account(meaning)
        exception = f"{self._late} of {self._samples} samples hold some of the host's part, which took it too long"
        is_visible = self._late > VISIBLE_SHARE * self._samples
        return Account(f"{meaning}, but {exception}", [exception] if is_visible else [])

    def _measure_clock(self) -> float:
        """The GPU's cycles per second, now that it is warm."""
        self._queue.spin(1)  # the first of all loads the kernel
        self._queue.synchronize()
        self._start.record()
        self._queue.spin(CALIBRATION_CYCLES)
        self._end.record()
        self._end.synchronize()
        return CALIBRATION_CYCLES / seconds_between(self._start, self._end)

    def _launch_s(self, step: Step) -> float:
        """How long the host takes to queue a step."""
        self._queue.synchronize()
        began = self._clock()
        step()
        return self._clock() - began


class GraphTimer:
    """Many steps in one CUDA graph, replayed behind a spinning kernel: for kernels too short to be timed alone.

    A graph holds a whole number of `turns`, so that steps which take turns are all in it alike; one turn where
    `is_restored`, so that no sample runs a step twice between two restorings.
    """

    kind = Timer.CUDA_EVENT

    def __init__(
        self, blocked: BlockedTimer, capture: Callable[[Step, int], Step], turns: int = 1, is_restored: bool = False
    ) -> None:
        self._blocked = blocked
        self._capture = capture
        self._turns = turns
        self._most = turns if is_restored else MOST_STEPS
        self._replay: Step | None = None
        self._steps = 0

    def calibrate(self, step: Step) -> int:
        replay = self._capture(step, 1)
        self._blocked.calibrate(replay)
        seconds = median(self._blocked.time(replay, 1) for _ in range(3))
        self._steps = graph_size(seconds, self._turns, self._most)
        if self._steps > 1:
            replay = self._capture(step, self._steps)
            self._blocked.calibrate(replay)
        self._replay = replay
        return self._steps

    def time(self, step: Step, repeats: int) -> float:
        assert self._replay is not None, "it is calibrated before anything is timed"
        return self._blocked.time(self._replay, 1) / repeats

    def account(self) -> Account:
        inner = self._blocked.account()
        steps = "1 step" if self._steps == 1 else f"{self._steps} steps, by which its time is divided"
        return Account(f"graph: a sample is one replay of {steps}; {inner.launch}", inner.warnings)


def graph_size(step_s: float, turns: int, most: int) -> int:
    """How many steps a graph holds: as many as last long enough, in whole turns, but not more than `most`.

    One turn it is at least. `step_s` is how long one step takes.
    """
    wanted = math.ceil(GRAPH_S / max(step_s, 1e-9))
    return turns * max(1, min(math.ceil(wanted / turns), most // turns))


def capture_steps(step: Step, count: int) -> Step:
    """One CUDA graph of so many calls of a step; UsageError, with the first thing that went wrong, if it can't be."""

    def run() -> None:
        for _ in range(count):
            step()

    try:
        return capture_step(run, warmups=1)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        first = find_cause(error)
        reason = next(iter(str(first).splitlines()), "") or type(first).__name__
        problem = UsageError(
            f"measure.launch: graph: the step can't be captured: {reason}; use launch: blocked or idle"
        )
        # with the frames of what went wrong, so that the record shows the cell's own line
        raise problem.with_traceback(first.__traceback__) from first
