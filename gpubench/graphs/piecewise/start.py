"""A start in two phases, as serving engines have it: graphs first, to see what they leave for the cache.

How large the cache may be depends on what the graphs take, and they are captured with a cache. So they are captured
with a small one, released, and captured again when the final cache has its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpubench.graphs.cost import BucketCost
from gpubench.graphs.piecewise.step import Arguments, PiecewiseStep
from gpubench.registry import OwnMeasurement

__all__ = ["Captured", "Start", "measure_start", "start_at_once", "start_in_two_phases"]

MEMORY = ("device", "reserved", "allocated", "pool", "driver")


@dataclass(frozen=True)
class Start:
    """What a start took: seconds, and bytes of the device."""

    costs: list[BucketCost]
    """Of the captures that are used."""
    start_time: float
    """All of it but for tracing: warming up, capturing."""
    trace_time: float
    """Before that; of what others had traced already, what it took them."""
    recapture_time: float = 0.0
    """The part after the first captures: releasing them, warming up and capturing again."""
    release_time: float = 0.0
    """Of that, releasing."""
    estimated: int = 0
    """What the first captures took …"""
    kept: int = 0
    """… and of that, what didn't come back when they were released."""


class Captured(Protocol):
    """A step that is warmed up and captured by bucket: in pieces, or whole."""

    @property
    def timed_s(self) -> float:
        """Seconds that measuring took so far …"""
        ...

    @property
    def traced_s(self) -> float:
        """… and finding traces: neither is part of a start."""
        ...

    @property
    def trace_time(self) -> float:
        """Seconds that its traces took, whoever had them made."""
        ...

    def warm_up(self, arguments_for: Arguments) -> None: ...

    def capture(self, arguments_for: Arguments) -> list[BucketCost]: ...


def start_at_once(pieces: Captured, final: Callable[[], Arguments]) -> Start:
    """Warm up and capture."""
    watch = _Watch(pieces)
    arguments = final()
    pieces.warm_up(arguments)
    costs = pieces.capture(arguments)
    return Start(costs, watch.elapsed_s(), pieces.trace_time)


def start_in_two_phases(pieces: PiecewiseStep, small: Callable[[], Arguments], final: Callable[[], Arguments]) -> Start:
    """Capture with a small cache, release the captures and the cache, and capture with the final one.

    Both make the arguments for warming up and capturing; the small one's are dropped before the final one's are made.
    """
    watch = _Watch(pieces)
    arguments = small()
    pieces.warm_up(arguments)
    before = pieces.device_bytes()
    estimated = sum([cost.device for cost in pieces.capture(arguments)])
    captured_s = watch.elapsed_s()
    del arguments
    pieces.reset()
    released_s, kept = watch.elapsed_s(), pieces.device_bytes() - before
    costs = start_at_once(pieces, final).costs
    ended_s = watch.elapsed_s()
    recapture_s, release_s = ended_s - captured_s, released_s - captured_s
    return Start(costs, ended_s, pieces.trace_time, recapture_s, release_s, estimated, kept)


def measure_start(start: Start, of: str = "") -> list[OwnMeasurement]:
    """What a start took, and by bucket `capture_time`, the parts of memory, `replay_time` and `eager_time`.

    `of` says of which step it is where there are several: its figures have the ranges `prefill` and `prefill bucket 8`.
    """
    found = [
        OwnMeasurement("trace_time", "s", start.trace_time, of),
        OwnMeasurement("start_time", "s", start.start_time, of),
    ]
    if start.recapture_time:
        found += [
            OwnMeasurement("release_time", "s", start.release_time, of),
            OwnMeasurement("recapture_time", "s", start.recapture_time, of),
            OwnMeasurement("graphs_estimated", "B", float(start.estimated), of),
            OwnMeasurement("graphs_kept", "B", float(start.kept), of),
        ]
    for cost in start.costs:
        name = f"{of} bucket {cost.bucket}".strip()
        found.append(OwnMeasurement("capture_time", "s", cost.capture_time, name))
        found += [OwnMeasurement(f"memory_{part}", "B", float(getattr(cost, part)), name) for part in MEMORY]
        found.append(OwnMeasurement("replay_time", "s", cost.replay_time, name))
        found.append(OwnMeasurement("eager_time", "s", cost.eager_time, name))
    return found


class _Watch:
    """Tells the time, less what measuring and tracing took."""

    def __init__(self, pieces: Captured) -> None:
        self._pieces = pieces
        self._began = self._now()

    def elapsed_s(self) -> float:
        return self._now() - self._began

    def _now(self) -> float:
        return time.perf_counter() - self._pieces.timed_s - self._pieces.traced_s
