"""How a frontier moved from one run to another: its area, and what it yields at a fixed x.

**Area.** What the frontier dominates, down to the origin: the union of the rectangles between (0, 0) and each cell
(the hypervolume with the origin as its reference). A metric that is better low counts as its reciprocal. The origin is
no worse than any measurement and the same for every run, so that no cell can move the reference; the ratio of two areas
has no unit, doesn't depend on the metrics' scale, and changes little with a cell that is nearly on the frontier. Both
areas are over the cells that are ok in both runs: a grid that grew, or a cell that died, moves no frontier.

**Its interval** comes from draws of all medians within their own intervals, x and y of a cell together (they come from
the same steps); the seed is fixed.

**At a fixed x**, y is read from the line that joins the frontier's neighbouring cells on two logarithmic axes. Below
the frontier's least x it is what that first cell yields, for it serves a lesser x too; beyond the greatest, no cell
gets there, and there is no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubench.analysis.metrics import Metric
from gpubench.analysis.statistics import Ratio
from gpubench.analysis.verdicts import CERTAINTY, Figure

__all__ = ["AtLevel", "Movement", "area", "at_level", "move"]

Floats = NDArray[np.float64]

DRAWS = 400
SEED = 20261121
MOST_LEVELS = 3
_COARSE, _FINE = (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
_TO_SIGMA = 1.959964


@dataclass(frozen=True)
class AtLevel:
    """What both frontiers yield at one x; None where no cell gets there."""

    x: float
    before: float | None
    after: float | None

    @property
    def change(self) -> float | None:
        return self.after / self.before if self.before and self.after else None


@dataclass(frozen=True)
class Movement:
    """A group's frontier in two runs."""

    group: str
    x: Metric
    y: Metric
    cells: int
    """That are ok in both runs, and that both areas are of."""
    area: Ratio
    """The second frontier's area over the first's, with an interval of `CERTAINTY`."""
    levels: tuple[AtLevel, ...]


Point = tuple[Figure, Figure]
"""x and y of a cell."""


def move(group: str, x: Metric, y: Metric, points: Sequence[tuple[Point, Point]]) -> Movement | None:
    """The movement of a group's frontier, from (before, after) of each cell; None without a positive point in both."""
    known = [pair for pair in points if all(_is_known(figure) for point in pair for figure in point)]
    if not known:
        return None
    sides = [_Side.of(x, y, [pair[number] for pair in known]) for number in (0, 1)]
    before, after = ((side.x, side.y) for side in sides)
    value = area(*after) / area(*before)
    generator = np.random.default_rng(SEED)
    drawn = [area(*sides[1].draw(generator)) / area(*sides[0].draw(generator)) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, [(1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2])
    change = Ratio(value, min(float(low), value), max(float(high), value))
    turned_levels = _levels(before[0], after[0], x)
    levels = [AtLevel(level, *(_yield(side, level, x, y) for side in (before, after))) for level in turned_levels]
    return Movement(group, x, y, len(known), change, tuple(levels))


def area(x: Floats, y: Floats) -> float:
    """The area that the points dominate, down to the origin; more is better in both."""
    order = np.argsort(-x, kind="stable")
    xs, ys = x[order], np.maximum.accumulate(y[order])
    return float(np.sum(ys * (xs - np.r_[xs[1:], 0.0])))


def at_level(x: Floats, y: Floats, level: float) -> float | None:
    """y of the points' frontier at x = level, more being better in both; None beyond the greatest x."""
    order = np.lexsort((-y, -x))
    xs, ys = x[order], y[order]
    on = np.r_[True, ys[1:] > np.maximum.accumulate(ys)[:-1]]
    xs, ys = xs[on][::-1], ys[on][::-1]
    if level > xs[-1]:
        return None
    return float(np.exp(np.interp(math.log(level), np.log(xs), np.log(ys))))


@dataclass(frozen=True)
class _Side:
    """One run's points, turned so that more is better, with each one's error on a log scale."""

    x: Floats
    y: Floats
    x_error: Floats
    y_error: Floats

    @classmethod
    def of(cls, x: Metric, y: Metric, points: Sequence[Point]) -> _Side:
        xs, ys = ([point[number] for point in points] for number in (0, 1))
        return cls(_turn(xs, x), _turn(ys, y), _errors(xs), _errors(ys))

    def draw(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        z = generator.standard_normal(self.x.size)
        return self.x * np.exp(z * self.x_error), self.y * np.exp(z * self.y_error)


def _is_known(figure: Figure) -> bool:
    return math.isfinite(figure.median) and figure.median > 0


def _turn(figures: Sequence[Figure], metric: Metric) -> Floats:
    values = np.array([figure.median for figure in figures])
    return values if metric.higher_is_better else 1 / values


def _errors(figures: Sequence[Figure]) -> Floats:
    """Each median's standard error, on a log scale."""
    ends = np.array([(max(figure.low, figure.median / 10), figure.high) for figure in figures])
    return np.asarray(np.log(ends[:, 1] / ends[:, 0]) / (2 * _TO_SIGMA))


def _yield(side: tuple[Floats, Floats], level: float, x: Metric, y: Metric) -> float | None:
    found = at_level(*side, level if x.higher_is_better else 1 / level)
    if found is None:
        return None
    return found if y.higher_is_better else 1 / found


def _levels(before: Floats, after: Floats, x: Metric) -> list[float]:
    """Round values of x that lie on both frontiers, at most `MOST_LEVELS`; none where they hardly overlap."""
    least, greatest = max(before.min(), after.min()), min(before.max(), after.max())
    ends = (least, greatest) if x.higher_is_better else (1 / greatest, 1 / least)
    coarse = _round(ends, _COARSE)
    within = coarse if len(coarse) >= MOST_LEVELS else _round(ends, _FINE)
    keep = np.unique(np.linspace(0, len(within) - 1, min(MOST_LEVELS, len(within))).round().astype(int))
    return [within[place] for place in keep]


def _round(ends: tuple[float, float], steps: Sequence[float]) -> list[float]:
    """The multiples of powers of ten between two positive ends."""
    first, last = (math.floor(math.log10(end)) for end in ends)
    values = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    return [value for value in values if ends[0] <= value <= ends[1]]
