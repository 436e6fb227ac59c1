"""What follows from what was measured: computed when a run is read, and never stored.

`rates`           from one record: the work a step declares over the time it took, and the fraction of the roofline
`across_passes`   from both passes of a cell: launch overhead, and the profiler's tax
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.conditions import launch_of
from gpubench.analysis.merge import CellResult
from gpubench.analysis.metrics import METRICS
from gpubench.analysis.statistics import Interval, difference, ratio
from gpubench.records import Ceilings, CellRecord, Measurement, Pass

__all__ = ["ACROSS_PASSES", "across_passes", "rates", "shortest_time"]

ACROSS_PASSES = ("launch_overhead", "tax")
"""step time − busy, and profiled step / step time."""

_BASE = {Pass.TIMING: "step_time", Pass.PROFILE: "busy"}
"""The time that a rate is taken over, by pass."""


def rates(record: CellRecord, ceilings: Ceilings | None) -> Iterator[Measurement]:
    """`bytes_per_s`, `flop_per_s` and `roofline`, a sample for each of the time they are taken over.

    That is the step time, and in a profiled pass busy: there the profiler stretches the gaps within a span. A metric
    that the workload measures itself isn't derived again.
    """
    measured = {measurement.metric for measurement in record.measurements}
    for base in record.measurements:
        if base.metric != _BASE[record.pass_] or base.range or not all(seconds > 0 for seconds in base.samples):
            continue
        for metric, amount in _amounts(record, ceilings).items():
            if amount > 0 and metric not in measured:
                values = [amount / seconds for seconds in base.samples]
                yield Measurement(metric, METRICS[metric].unit, base.timer, values)


def _amounts(record: CellRecord, ceilings: Ceilings | None) -> dict[str, float]:
    """What each rate has over its time."""
    work = record.work
    return {
        "bytes_per_s": work.get("bytes", 0.0),
        "flop_per_s": work.get("flop", 0.0),
        "roofline": shortest_time(work.get("bytes", 0.0), work.get("flop", 0.0), ceilings) if ceilings else 0.0,
    }


def shortest_time(bytes_: float, flop: float, ceilings: Ceilings) -> float:
    """The seconds that so much work takes at best: it moves and computes at once, and the slower of the two decides."""
    return max(bytes_ / ceilings.copy_bytes_per_s, flop / ceilings.matmul_flop_per_s)


def across_passes(frame: pd.DataFrame, cells: Iterable[CellResult]) -> pd.DataFrame:
    """What takes both passes of a cell, in rows like those of its run's cell frame: `ACROSS_PASSES`.

    A cell has them if its step times hold the launches, as the profiled pass does: not under `launch: blocked` or
    `graph`. They are made of medians and their intervals. Percentiles and extremes are null, `num_samples` and `trials`
    those of the pass that has fewer, and `timer` names both. A launch overhead below 0 stays as it is: the passes ran
    apart, so that a difference within the noise has either sign. A metric that the workload measures itself isn't
    derived again.
    """
    with_launches = [cell.cell.cell_id for cell in cells if launch_of(cell) in ("", "idle")]
    frame = frame[frame[c.CELL_ID].isin(with_launches)]
    step = _figure(frame, "step_time", Pass.TIMING)
    busy = _figure(frame, "busy", Pass.PROFILE)
    profiled = _figure(frame, "profiled_step", Pass.PROFILE)
    parts = [_combine("launch_overhead", step, busy, difference), _combine("tax", profiled, step, _quotient)]
    measured = set(frame[c.METRIC])
    return pd.concat([part for part in parts if not measured.intersection(part[c.METRIC])] or [frame.iloc[:0]])


def _figure(frame: pd.DataFrame, metric: str, pass_: Pass) -> pd.DataFrame:
    """The rows of a metric of the whole step, by cell: one each."""
    rows = frame[(frame[c.METRIC] == metric) & (frame[c.PASS] == pass_) & (frame[c.RANGE] == "")]
    return rows.drop_duplicates(c.CELL_ID).set_index(c.CELL_ID, drop=False)


def _combine(
    metric: str, left: pd.DataFrame, right: pd.DataFrame, combine: Callable[[Interval, Interval], Interval]
) -> pd.DataFrame:
    shared = left.index[left.index.isin(right.index)]
    left, right = left.loc[shared], right.loc[shared]
    found = [combine(one, other) for one, other in zip(_intervals(left), _intervals(right), strict=True)]
    rows = left.assign(
        **{
            c.METRIC: metric,
            c.UNIT: METRICS[metric].unit,
            c.MEDIAN: [interval.median for interval in found],
            c.LOW: [interval.low for interval in found],
            c.HIGH: [interval.high for interval in found],
            **dict.fromkeys((c.P10, c.P90, c.P99, c.MIN, c.MAX, c.IQR), math.nan),
            **{name: np.minimum(left[name], right[name]) for name in (c.NUM_SAMPLES, c.TRIALS)},
            c.PASS: f"{Pass.TIMING}, {Pass.PROFILE}",
            **{name: _joined(left[name], right[name]) for name in (c.TIMER, c.WARNINGS)},
        }
    )
    return rows.reset_index(drop=True)


def _intervals(rows: pd.DataFrame) -> Iterator[Interval]:
    ends = (rows[name].tolist() for name in (c.MEDIAN, c.LOW, c.HIGH))
    return itertools.starmap(Interval, zip(*ends, strict=True))


def _quotient(numerator: Interval, denominator: Interval) -> Interval:
    found = ratio(numerator, denominator)
    return Interval(found.value, found.low, found.high)


def _joined(left: pd.Series, right: pd.Series) -> list[str]:
    """What is said of either, each thing once."""
    both = (f"{one}, {other}".split(", ") for one, other in zip(left, right, strict=True))
    return [", ".join(sorted(set(filter(None, words)))) for words in both]
