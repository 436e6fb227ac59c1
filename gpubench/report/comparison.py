"""Every backend beside the baseline, or every value of an axis beside one, shape by shape: who wins and who loses."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import Metric, compared_times, format_value
from gpubench.analysis.statistics import Interval, Ratio, ratio
from gpubench.analysis.verdicts import within_grain
from gpubench.records import Outcome
from gpubench.report.content import Against, Content

__all__ = ["Comparison", "Row", "Tally", "Versus", "compare"]

Cell = Mapping[Hashable, Any]
"""A row of the wide frame."""


@dataclass(frozen=True)
class Versus:
    """One metric of a cell beside that of the cell it is held against."""

    baseline: str
    figure: str
    speedup: Ratio | None
    """None where one of the two is not ok or was not measured: its figure then says what became of it."""
    is_clear: bool = False
    """One is faster than the other beyond what the intervals, and for a profiler's figures its grain, can tell."""

    @property
    def value(self) -> str:
        """`▲ 2.00×`: faster, `▼` slower, `≈` not clearly either; an en dash without a speed-up."""
        if self.speedup is None:
            return "–"
        sign = "≈" if not self.is_clear else "▲" if self.speedup.value > 1 else "▼"
        return f"{sign} {self.speedup.value:.{self._decimals}f}×"

    @property
    def interval(self) -> str:
        """`(1.99–2.01)`, or "" without a speed-up."""
        if self.speedup is None:
            return ""
        return f"({self.speedup.low:.{self._decimals}f}–{self.speedup.high:.{self._decimals}f})"

    @property
    def _decimals(self) -> int:
        if self.speedup is None or self.speedup.value < 10:
            return 3 if self.speedup and 0.99 < self.speedup.value < 1.01 else 2
        return 1 if self.speedup.value < 100 else 0


@dataclass(frozen=True)
class Row:
    """One cell against that of the same shape whose value is the baseline, by metric."""

    shape: tuple[str, ...]
    value: str
    """Of the axis that is compared: the backend, unless something else was asked for."""
    versus: tuple[Versus, ...]

    @property
    def is_loss(self) -> bool:
        """Clearly slower than the baseline in any metric."""
        return any(versus.is_clear and versus.speedup and versus.speedup.value < 1 for versus in self.versus)


@dataclass(frozen=True)
class Tally:
    """How one backend or value does in one metric over all shapes, in words."""

    name: str
    metric: Metric
    words: str


@dataclass(frozen=True)
class Comparison:
    """All backends, or values of an axis, against one of them."""

    against: Against
    metrics: tuple[Metric, ...]
    shape_axes: tuple[str, ...]
    rows: tuple[Row, ...]
    timers: tuple[str, ...]
    """Who produced each metric's figures."""

    @property
    def baseline(self) -> str:
        return self.against.name

    @property
    def title(self) -> str:
        """`step time by cuda_event and kernel sum by nsys`; `TTFT and TPOT, by wall`."""
        labels = [metric.label for metric in self.metrics]
        if len(set(self.timers)) == 1:
            return " and ".join(labels) + (f", by {self.timers[0]}" if self.timers[0] else "")
        pairs = zip(labels, self.timers, strict=True)
        return " and ".join(f"{label} by {timer}" if timer else label for label, timer in pairs)

    def tallies(self) -> list[Tally]:
        """By metric, and within it by backend or value."""
        return [tally for place in range(len(self.metrics)) for tally in self._tally(place)]

    def _tally(self, place: int) -> Iterator[Tally]:
        for value in dict.fromkeys(row.value for row in self.rows):
            versus = [row.versus[place] for row in self.rows if row.value == value]
            yield Tally(self.against.name_of(value), self.metrics[place], _count(versus))


def compare(content: Content) -> Comparison | None:
    """Each run's cells against its own; None where there are no two backends or values, or nothing to compare."""
    against, metrics = content.against, tuple(compared_times(content.series))
    if not metrics or against.axis not in content.wide:
        return None
    wide = content.wide[content.wide[against.axis].notna()]
    wide = wide.assign(**{against.axis: wide[against.axis].map(axis_text)})
    if against.value not in set(wide[against.axis]) or wide[against.axis].nunique() < 2:
        return None
    axes = tuple(name for name in content.axes if name != against.axis)
    timers = tuple(content.timers_of(metric.key) for metric in metrics)
    return Comparison(against, metrics, axes, tuple(_rows(wide, axes, against, metrics)), timers)


def _rows(wide: pd.DataFrame, axes: Sequence[str], against: Against, metrics: Sequence[Metric]) -> Iterator[Row]:
    """A row for each cell of another backend or value, by the shapes of the baseline.

    An axis that the baseline doesn't take, an option of another backend, isn't part of a shape: `block_v: 16` and
    `block_v: 32` are both held against the one cell of torch.
    """
    figures = [name for metric in metrics for name in (metric.key, *_bounds(metric), field(metric.key, c.TIMER))]
    bases = wide[wide[against.axis] == against.value]
    shared = [name for name in axes if bases[name].notna().any()]
    by_shape: defaultdict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in wide[[against.axis, c.OUTCOME, *axes, *figures]].to_dict(orient="records"):
        by_shape[tuple(axis_text(cell[name]) for name in shared)].append(cell)
    for members in by_shape.values():
        base = next((cell for cell in members if cell[against.axis] == against.value), None)
        for other in members:
            if other[against.axis] != against.value:
                versus = tuple(_against(base, other, metric) for metric in metrics)
                yield Row(tuple(axis_text(other[name]) for name in axes), str(other[against.axis]), versus)


def _against(base: Cell | None, other: Cell, metric: Metric) -> Versus:
    figure = _figure(other, metric)
    if base is None:
        return Versus("–", figure, None)
    before, after = _interval(base, metric), _interval(other, metric)
    speedup = ratio(before, after)
    if math.isnan(speedup.value):
        return Versus(_figure(base, metric), figure, None)
    is_grain = within_grain(metric, str(other[field(metric.key, c.TIMER)]), before.median, after.median)
    return Versus(_figure(base, metric), figure, speedup, speedup.is_clear and not is_grain)


def _bounds(metric: Metric) -> tuple[str, str]:
    return field(metric.key, c.LOW), field(metric.key, c.HIGH)


def _interval(cell: Cell, metric: Metric) -> Interval:
    return Interval(*(float(cell[name]) for name in (metric.key, *_bounds(metric))))


def _figure(cell: Cell, metric: Metric) -> str:
    if cell[c.OUTCOME] != Outcome.OK:
        return str(cell[c.OUTCOME])
    return format_value(float(cell[metric.key]), metric.unit)


def _count(versus: Sequence[Versus]) -> str:
    """How often it is faster, slower, and neither, as far as it is so at all, with the best, the worst and the mean."""
    ratios = [found.speedup.value for found in versus if found.speedup]
    clear = [found.speedup.value for found in versus if found.speedup and found.is_clear]
    faster, slower = [value for value in clear if value > 1], [value for value in clear if value < 1]
    parts = {
        "faster": (len(faster), f" (at best {max(faster, default=1):.2f}×)"),
        "slower": (len(slower), f" (at worst {min(slower, default=1):.2f}×)"),
        "no clear difference": (len(ratios) - len(clear), ""),
        "not comparable": (len(versus) - len(ratios), ""),
    }
    words = [f"{what} in {number:,}{extreme}" for what, (number, extreme) in parts.items() if number]
    mean = f"; geometric mean {_geometric_mean(ratios):.2f}×" if ratios else ""
    return f"{', '.join(words)} of {len(versus):,} shape{'s' if len(versus) != 1 else ''}{mean}"


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
