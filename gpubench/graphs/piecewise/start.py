"""A start in two phases, as serving engines have it: graphs first, to see what they leave for the cache.

How large the cache may be depends on what the graphs take, and they are captured with a cache. So they are captured
with a small one, released, and captured again when the final cache has its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gpubench.graphs.piecewise.step import Arguments, BucketCost, PiecewiseStep

__all__ = ["Start", "start_at_once", "start_in_two_phases"]


@dataclass(frozen=True)
class Start:
    """What a start took: seconds, and bytes of the device."""

    costs: list[BucketCost]
    """Of the captures that are used."""
    start_time: float
    """All of it: tracing, warming up, capturing."""
    recapture_time: float = 0.0
    """The part after the first captures: releasing them, warming up and capturing again."""
    release_time: float = 0.0
    """Of that, releasing."""
    estimated: int = 0
    """What the first captures took …"""
    kept: int = 0
    """… and of that, what didn't come back when they were released."""


def start_at_once(pieces: PiecewiseStep, final: Callable[[], Arguments]) -> Start:
    """Warm up and capture."""
    watch = _Watch(pieces)
    arguments = final()
    pieces.warm_up(arguments)
    costs = pieces.capture(arguments)
    return Start(costs, watch.elapsed_s())


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
    return Start(costs, ended_s, ended_s - captured_s, released_s - captured_s, estimated, kept)


class _Watch:
    """Tells the time, less what timing steps took."""

    def __init__(self, pieces: PiecewiseStep) -> None:
        self._pieces = pieces
        self._began = time.perf_counter() - pieces.timed_s

    def elapsed_s(self) -> float:
        return time.perf_counter() - self._pieces.timed_s - self._began
