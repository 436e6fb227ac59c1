"""Two measurements of one thing: is the second faster, slower, the same, or can't these samples tell?

**The rule**, for a threshold of 2 %. The change is the ratio of the two medians, with an interval of 99 %: a comparison
looks at hundreds of figures at once, so that an interval of 95 % would be wrong about several of them every time.

faster, slower   the interval leaves 1 out, and the change is beyond the threshold
same             the whole interval lies within the threshold
unclear          anything else: the samples would allow a change beyond the threshold, and don't show one

Of a metric without a better way, a count of what ran, it is `changed` instead of faster or slower.

Beyond the threshold is by more than it in either direction on a log scale, so that swapping the runs swaps the words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from gpubench.analysis.metrics import Metric
from gpubench.analysis.statistics import MIN_SAMPLES, Interval, Ratio, SampleWarning, ratio
from gpubench.records import Timer

__all__ = ["CERTAINTY", "GRAIN_S", "Figure", "Judgement", "Verdict", "judge", "within_grain"]

CERTAINTY = 0.99
"""Of the intervals that verdicts are made by."""
GRAIN_SHARE, GRAIN_S = 0.02, 64e-9
"""Kernel times closer than either are the same: nsys ticks in 32 ns, and one profiled pass doesn't show what drifts."""
MIN_TRIALS = 3
"""From how many trials on their medians alone make an interval, however few samples each has."""
PROFILERS = frozenset((str(Timer.NSYS), str(Timer.CUPTI)))


class Verdict(StrEnum):
    """What became of a cell, or of one metric of it, from one run to another."""

    SLOWER = "slower"
    NEWLY_FAILING = "newly failing"
    FASTER = "faster"
    NEWLY_OK = "newly ok"
    CHANGED = "changed"
    UNCLEAR = "unclear"
    SAME = "same"
    MISSING = "missing"
    NEW = "new"
    STILL_FAILING = "still failing"

    @property
    def is_regression(self) -> bool:
        return self in (Verdict.SLOWER, Verdict.NEWLY_FAILING)


@dataclass(frozen=True)
class Figure:
    """One metric of one cell in one run."""

    median: float
    low: float
    high: float
    timer: str
    num_samples: int
    trials: int
    warnings: tuple[str, ...] = ()

    @property
    def interval(self) -> Interval:
        return Interval(self.median, self.low, self.high)

    @property
    def has_interval(self) -> bool:
        """Samples that repeat a reading are as many as their readings, which the warning counts."""
        is_enough = self.num_samples >= MIN_SAMPLES and SampleWarning.TOO_FEW_SAMPLES not in self.warnings
        return is_enough or self.trials >= MIN_TRIALS


@dataclass(frozen=True)
class Judgement:
    """A metric of a cell that is ok in both runs; a figure is None where a run didn't measure it."""

    metric: Metric
    before: Figure | None
    after: Figure | None
    verdict: Verdict
    change: Ratio | None = None
    """after / before, with an interval of `CERTAINTY`; None where there is none."""
    why: str = ""
    """What the verdict alone doesn't tell, in words."""


def within_grain(metric: Metric, timer: str, before: float, after: float, share: float = GRAIN_SHARE) -> bool:
    """Whether two figures of a profiler are closer than it can tell: by `share`, or by its clock."""
    if not PROFILERS.intersection(timer.split(", ")):
        return False
    closest = min(before, after) > 0 and max(before, after) / min(before, after) <= 1 + share
    return closest or (metric.unit == "s" and abs(before - after) <= GRAIN_S)


def judge(metric: Metric, before: Figure | None, after: Figure | None, threshold: float) -> Judgement:
    """One metric of a cell that is ok in both runs."""
    if before is None or after is None:
        verdict = Verdict.NEW if before is None else Verdict.MISSING
        where = "the first run" if before is None else "the second run"
        both = before is None and after is None
        why = "measured in neither run" if both else f"not measured in {where}"
        return Judgement(metric, before, after, Verdict.MISSING if both else verdict, None, why)
    change = ratio(after.interval, before.interval, CERTAINTY)
    if math.isnan(change.value):
        if before.median == after.median:
            return Judgement(metric, before, after, Verdict.SAME)
        return Judgement(
            metric, before, after, Verdict.UNCLEAR, None, "there is no ratio of figures that aren't positive"
        )
    verdict, why = _weigh(metric, before, after, change, threshold)
    return Judgement(metric, before, after, verdict, change, why)


def _weigh(metric: Metric, before: Figure, after: Figure, change: Ratio, threshold: float) -> tuple[Verdict, str]:
    bound = math.log1p(threshold)
    if within_grain(metric, after.timer, before.median, after.median, share=0.0) and change.value != 1:
        return Verdict.SAME, "closer than the profiler's clock can tell"
    if not (before.has_interval and after.has_interval):
        if before.median == after.median and before.low == before.high and after.low == after.high:
            return Verdict.SAME, ""
        least = min(figure.num_samples for figure in (before, after) if not figure.has_interval)
        return Verdict.UNCLEAR, _say_too_few(least)
    if change.is_clear and abs(math.log(change.value)) > bound:
        return _direction(metric, change), ""
    if -bound <= math.log(change.low) and math.log(change.high) <= bound:
        return Verdict.SAME, ""
    return Verdict.UNCLEAR, ""


def _direction(metric: Metric, change: Ratio) -> Verdict:
    if metric.higher_is_better is None:
        return Verdict.CHANGED
    return Verdict.FASTER if (change.value > 1) == metric.higher_is_better else Verdict.SLOWER


def _say_too_few(samples: int) -> str:
    what = "one sample" if samples == 1 else f"{samples} samples"
    if samples >= MIN_SAMPLES:
        what += " of fewer readings"
    return f"{what} can't tell: {MIN_SAMPLES} samples or {MIN_TRIALS} trials can"
