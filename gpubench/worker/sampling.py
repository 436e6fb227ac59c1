"""How many samples are enough: until the median is known well enough, or the limits on count and time end it."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from gpubench.collection import garbage_collection_paused
from gpubench.records import Outcome
from gpubench.registry import Step
from gpubench.settings import MeasureSettings
from gpubench.worker.failure import CellStopped
from gpubench.worker.timers import StepTimer

__all__ = ["Samples", "StoppingRule", "median_interval", "take_samples"]

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Samples:
    """Every sample of a trial, in seconds per step, and in words why there are no more."""

    seconds: list[float]
    stopped: str
    is_short: bool
    """Fewer than `min_samples` fitted into the time."""


def median_interval(ordered: list[float]) -> tuple[float, float] | None:
    """The 95 % interval of the median from ascending samples; None of fewer than six, which can't bound it.

    Order statistics: the ranks l and n + 1 − l with l = ⌊(n + 1)/2 − z·√n/2⌋, the normal approximation of the sign
    test's binomial. It assumes nothing about the distribution.
    """
    n = len(ordered)
    rank = math.floor((n + 1) / 2 - _Z * math.sqrt(n) / 2)
    return (ordered[rank - 1], ordered[n - rank]) if rank >= 1 else None


class StoppingRule:
    """Takes the samples one by one and says when they are enough."""

    def __init__(self, settings: MeasureSettings) -> None:
        self._settings = settings
        self._ordered: list[float] = []

    def add(self, seconds: float, elapsed_s: float) -> str:
        """Why sampling stops after this sample, in words; "" to go on. `elapsed_s` counts from before the first."""
        insort(self._ordered, seconds)
        count, settings = len(self._ordered), self._settings
        precision = self._relative_half_width()
        if count >= settings.min_samples and precision <= settings.target_rel_ci:
            return f"the median is known within ± {precision:.2%} after {_samples(count)}"
        if count >= settings.max_samples:
            return f"{_samples(count)} taken (max_samples); {self._precision(precision)}"
        if elapsed_s >= settings.max_time_s:
            return f"{settings.max_time_s:g} s over (max_time_s) after {_samples(count)}; {self._precision(precision)}"
        return ""

    def _relative_half_width(self) -> float:
        interval = median_interval(self._ordered)
        if interval is None:
            return math.inf
        count = len(self._ordered)
        median = (self._ordered[(count - 1) // 2] + self._ordered[count // 2]) / 2
        return (interval[1] - interval[0]) / 2 / median

    def _precision(self, precision: float) -> str:
        target = f"target ± {self._settings.target_rel_ci:.2%}"
        return f"the median is known within ± {precision:.2%}, {target}" if precision < math.inf else target


def take_samples(
    step: Step, timer: StepTimer, repeats: int, prepare: Callable[[int], None], settings: MeasureSettings
) -> Samples:
    """Time the step until the stopping rule ends it; `prepare(samples so far)` runs before each, untimed.

    A sample that is no positive number ends the cell as invalid.
    """
    rule = StoppingRule(settings)
    seconds: list[float] = []
    began = time.perf_counter()
    with garbage_collection_paused():
        stopped = ""
        while not stopped:
            prepare(len(seconds))
            sample = timer.time(step, repeats)
            if not (math.isfinite(sample) and sample > 0):
                raise CellStopped(Outcome.INVALID, f"sample {len(seconds)} of {timer.kind} is {sample:g} s")
            seconds.append(sample)
            stopped = rule.add(sample, time.perf_counter() - began)
    is_short = len(seconds) < min(settings.min_samples, settings.max_samples)
    return Samples(seconds, stopped, is_short)


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"
