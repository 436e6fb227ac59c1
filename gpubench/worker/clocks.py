"""What the GPU's clocks, heat and limits did while samples were taken. Read only: nothing of the GPU is ever set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pynvml

from gpubench.worker.device import Device

__all__ = ["ClockSummary", "ClockWatch", "Reading", "watch_clocks"]

INTERVAL_S = 0.05
"""Between two readings at least: one takes up to a millisecond."""

THROTTLE_REASONS = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal slowdown by software",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "thermal slowdown by hardware",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
}
"""NVML's reasons for a clock below what the load would get; being idle, or set to a clock by its owner, is none."""


@dataclass(frozen=True)
class Reading:
    """The GPU at one moment."""

    sm_hz: float
    memory_hz: float
    temperature_c: float
    throttled_by: frozenset[str]


@dataclass(frozen=True)
class ClockSummary:
    """What a trial's readings come to, as `details["clocks"]` of its record has it; ranges are (lowest, highest)."""

    sm_hz: tuple[float, float]
    memory_hz: tuple[float, float]
    temperature_c: tuple[float, float]
    readings: int
    throttled_by: list[str]
    throttled_samples: list[tuple[int, int]]
    """Spans [from, to) of sample numbers: the samples between a throttled reading and its neighbours."""
    processes: int = 0
    """That had a compute context on the GPU after the last sample, the worker among them; 0 if NVML doesn't tell."""

    def warnings(self, samples: int) -> Iterator[str]:
        """A sentence if some of so many samples ran throttled, and one if the GPU was shared."""
        throttled = sum(end - start for start, end in self.throttled_samples)
        low, high = (hz / 1e6 for hz in self.sm_hz)
        if throttled:
            yield (
                f"{throttled} of {samples} samples ran throttled ({', '.join(self.throttled_by)}): "
                f"SM clock {low:,.0f} to {high:,.0f} MHz, up to {self.temperature_c[1]:g} °C"
            )
        others = self.processes - 1
        if others > 0:
            yield f"{others} other {'process' if others == 1 else 'processes'} had the GPU open after the last sample"


class ClockWatch:
    """Looks at the GPU between samples, not more often than the interval, and remembers what it saw before which."""

    def __init__(
        self,
        read: Callable[[], Reading],
        clock: Callable[[], float] = time.perf_counter,
        count_processes: Callable[[], int] = lambda: 0,
    ) -> None:
        self._read = read
        self._count = count_processes
        self._clock = clock
        self._last = -math.inf
        self._seen: list[tuple[int, Reading]] = []
        self.problem = ""
        """Why it sees no more, in NVML's words."""

    def look(self, samples: int, at_once: bool = False) -> None:
        """Take a reading, after so many samples, if it is time for one, or in any case."""
        if self.problem or not (at_once or self._clock() - self._last >= INTERVAL_S):
            return
        try:
            self._seen.append((samples, self._read()))
        except pynvml.NVMLError as error:  # a GPU that won't tell its clocks can still be measured
            self.problem = f"NVML says: {error}"
        self._last = self._clock()

    def summarise(self) -> ClockSummary | None:
        """None if there was no reading."""
        readings = [reading for _, reading in self._seen]
        if not readings:
            return None
        return ClockSummary(
            sm_hz=_range(reading.sm_hz for reading in readings),
            memory_hz=_range(reading.memory_hz for reading in readings),
            temperature_c=_range(reading.temperature_c for reading in readings),
            readings=len(readings),
            throttled_by=sorted(set().union(*(reading.throttled_by for reading in readings))),
            throttled_samples=_throttled_spans(self._seen),
            processes=self._count(),
        )


def watch_clocks(device: Device) -> ClockWatch | None:
    """A watch over this GPU; None on a CPU."""
    if not device.is_cuda:
        return None
    return ClockWatch(lambda: _read(device.uuid), count_processes=lambda: _count_processes(device.uuid))


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _throttled_spans(seen: list[tuple[int, Reading]]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for (start, before), (end, after) in pairwise(seen):
        if end == start or not (before.throttled_by or after.throttled_by):
            continue
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _count_processes(uuid: str) -> int:
    """Once per trial, after its samples: some drivers take their time over it."""
    try:
        return len(pynvml.nvmlDeviceGetComputeRunningProcesses(_open(uuid)))
    except pynvml.NVMLError:  # not told here, as in some containers and under MIG: 0, which is nobody's count
        return 0


@cache
def _open(uuid: str) -> Any:
    pynvml.nvmlInit()  # for the worker's whole life
    return pynvml.nvmlDeviceGetHandleByUUID(uuid)


def _read(uuid: str) -> Reading:
    handle = _open(uuid)
    bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return Reading(
        sm_hz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6,
        memory_hz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM) * 1e6,
        temperature_c=pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        throttled_by=frozenset(name for bit, name in THROTTLE_REASONS.items() if bits & bit),
    )
