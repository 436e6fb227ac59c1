"""What captures cost: memory and time, by bucket."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpubench.default_device import without_default_device
from gpubench.graphs.piecewise.seam import Graphs, MemoryInUse

__all__ = ["BucketCost", "Meter"]

TIMED_STEPS = 5
"""Of a bucket, captured and as many eagerly."""


@dataclass(frozen=True)
class BucketCost:
    """What a bucket's captures cost, once they have been replayed: bytes, and seconds."""

    bucket: int
    capture_time: float
    replay_time: float
    """Of a captured step, the shortest of some …"""
    eager_time: float
    """… and of an eager one."""
    device: int
    """By how much less the driver had free."""
    reserved: int
    allocated: int
    pool: int

    @property
    def driver(self) -> int:
        """What the driver took for itself: for the graphs' nodes, not for tensors."""
        return self.device - self.reserved


class Meter:
    """Measures captures, one bucket after the other."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self.timed_s = 0.0
        """Seconds that measuring took so far: no part of a start."""

    @without_default_device()
    def measure(
        self, bucket: int, pool: Any, capture: Callable[[], object], replay: Callable[[], Any], eager: Callable[[], Any]
    ) -> BucketCost:
        """Capture a bucket's graphs into the pool and replay them; then time some replays, and some eager steps."""
        began = time.perf_counter()
        self._graphs.settle()  # what is cached would be taken for nothing
        before = self._graphs.memory(pool)
        self.timed_s += time.perf_counter() - began
        began = time.perf_counter()
        capture()
        self._graphs.wait()
        seconds = time.perf_counter() - began
        replay()
        self._graphs.wait()
        taken = _taken(before, self._graphs.memory(pool))
        return BucketCost(bucket, seconds, self._shortest(replay), self._shortest(eager), *taken)

    def _shortest(self, run: Callable[[], Any]) -> float:
        found = []
        for _ in range(TIMED_STEPS):
            self._graphs.wait()
            began = time.perf_counter()
            run()
            self._graphs.wait()
            found.append(time.perf_counter() - began)
        self.timed_s += sum(found)
        return min(found)


def _taken(before: MemoryInUse, after: MemoryInUse) -> tuple[int, int, int, int]:
    return (
        after.device - before.device,
        after.reserved - before.reserved,
        after.allocated - before.allocated,
        after.pool - before.pool,
    )
