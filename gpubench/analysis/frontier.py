"""The Pareto frontier of two metrics over the cells that are ok, with ties kept and near ties told.

One cell dominates another if it is at least as good in both metrics and better in one. Cells with the same two values
don't dominate each other: both are on the frontier, or neither. It takes O(n log n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field
from gpubench.analysis.metrics import Metric
from gpubench.errors import UsageError
from gpubench.records import Outcome
from gpubench.scalars import axis_value

__all__ = ["axis_text", "frontier", "group_labels", "label"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def frontier(wide: pd.DataFrame, x: Metric, y: Metric, group: Sequence[str] = ()) -> pd.DataFrame:
    """A row per cell of a wide frame that is ok and has positive, finite x and y; index as in `wide`.

    Columns: run_id, cell_id, the two metrics' medians by their keys, and
    `group`              the values of the columns named in `group`, joined
    `on_frontier`        no cell dominates it
    `on_group_frontier`  no cell of its group dominates it
    `near`               dominated, but no cell beats it clearly: within the intervals it might be on the frontier
    `dominated_by`       of the frontier's cells that dominate it, the one that gains most (null on the frontier);
                         `dominated_by_run` is that cell's run
    `margin`             that gain: how many times better it is in one metric, less 1, giving up nothing in the other

    Raises UsageError for a metric of which neither way is better.
    """
    for metric in (x, y):
        if metric.higher_is_better is None:
            raise UsageError(f"{metric.key}: neither more nor less of it is better, so it has no frontier")
    points = _Points.of(wide, x, y)
    rows = wide.loc[points.labels]
    groups = group_labels(rows, group)
    on = _undominated(points.x, points.y)
    on_group = np.zeros(len(rows), dtype=bool)
    for members in groups.groupby(groups).indices.values():
        on_group[members] = _undominated(points.x[members], points.y[members])
    by, margin = _dominators(points, on)
    return pd.DataFrame(
        {
            c.RUN_ID: rows[c.RUN_ID],
            c.CELL_ID: rows[c.CELL_ID],
            x.key: rows[x.key],
            y.key: rows[y.key],
            c.GROUP: groups,
            c.ON_FRONTIER: on,
            c.ON_GROUP_FRONTIER: on_group,
            c.NEAR: ~on & ~_clearly_beaten(points),
            c.DOMINATED_BY: _pick(rows[c.CELL_ID], by),
            c.DOMINATED_BY_RUN: _pick(rows[c.RUN_ID], by),
            c.MARGIN: margin,
        },
        index=rows.index,
    )


def group_labels(rows: pd.DataFrame, group: Sequence[str]) -> pd.Series:
    """The group of each row: the values of the columns, joined by a middle dot; "" without columns."""
    labels = pd.Series("", index=rows.index, dtype=object)
    for number, name in enumerate(group):
        labels = labels + (" · " if number else "") + rows[name].map(partial(_in_group, name)).astype(object)
    return labels


def label(values: Mapping[str, object]) -> str:
    """One cell's group, of its values of the grouping columns."""
    return " · ".join(_in_group(name, value) for name, value in values.items())


def _in_group(name: str, value: object) -> str:
    """A value as a group's name has it: `true` would say of nothing what it is."""
    is_truth = isinstance(axis_value(value), bool | np.bool_)
    return f"{name}={axis_text(value)}" if is_truth else axis_text(value)


def axis_text(value: object) -> str:
    """An axis' value as YAML has it: an integer that a frame kept as a float is one again; a null is an en dash.

    A list or mapping is cut short as axes have it.
    """
    value = axis_value(value)
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "–" if value is None or value != value else str(value)  # noqa: PLR0124 (NaN is not itself)


@dataclass(frozen=True)
class _Points:
    """Where cells lie, turned so that more is better in both."""

    labels: pd.Index
    x: Floats
    y: Floats
    x_bounds: tuple[Floats, Floats]
    """The worse and the better end of the interval."""
    y_bounds: tuple[Floats, Floats]

    @classmethod
    def of(cls, wide: pd.DataFrame, x: Metric, y: Metric) -> _Points:
        is_point = wide[c.OUTCOME] == Outcome.OK
        for metric in (x, y):
            values = wide[metric.key].astype(float)
            is_point &= np.isfinite(values) & (values > 0)
        rows = wide[is_point]
        x_values, y_values = (_turn(rows[metric.key], metric) for metric in (x, y))
        return cls(rows.index, x_values, y_values, _bounds(rows, x), _bounds(rows, y))


def _turn(values: pd.Series, metric: Metric) -> Floats:
    """Negated where less is better: order is kept to the last bit, which a reciprocal would not do."""
    numbers = values.to_numpy(dtype=np.float64)
    return numbers if metric.higher_is_better else -numbers


def _bounds(rows: pd.DataFrame, metric: Metric) -> tuple[Floats, Floats]:
    ends = []
    for name in (c.LOW, c.HIGH):
        column = field(metric.key, name)
        ends.append(_turn(rows[column] if column in rows else rows[metric.key], metric))
    low, high = ends
    return np.minimum(low, high), np.maximum(low, high)


def _undominated(x: Floats, y: Floats) -> Flags:
    """Which points no other dominates; more is better in both."""
    order = np.lexsort((-y, -x))
    xs, ys = x[order], y[order]
    starts = np.flatnonzero(np.r_[True, xs[1:] != xs[:-1]]) if xs.size else np.empty(0, dtype=np.intp)
    best = ys[starts]  # of each x, since y falls within it
    best_beyond = np.r_[-np.inf, np.maximum.accumulate(best)[:-1]] if best.size else best
    block = np.cumsum(np.isin(np.arange(xs.size), starts)) - 1
    on = np.zeros(x.size, dtype=bool)
    on[order] = (ys == best[block]) & (ys > best_beyond[block])
    return on


def _clearly_beaten(points: _Points) -> Flags:
    """Whether some point is better even at the worse ends of its intervals than this one at its better ends."""
    order = np.lexsort((points.y_bounds[0], points.x_bounds[0]))
    xs, ys = points.x_bounds[0][order], points.y_bounds[0][order]
    best = np.r_[np.maximum.accumulate(ys[::-1])[::-1], -np.inf]
    x, y = points.x_bounds[1], points.y_bounds[1]
    at_least = best[np.searchsorted(xs, x, side="left")]
    beyond = best[np.searchsorted(xs, x, side="right")]
    beaten: Flags = (at_least > y) | (beyond >= y)
    return beaten


def _dominators(points: _Points, on: Flags) -> tuple[NDArray[np.intp], Floats]:
    """For each point the frontier's point that gains most over it (−1 on the frontier), and that gain.

    Along the frontier x rises and y falls, so the points that dominate a given one are neighbours there: the first of
    them gains most in y, the last most in x.
    """
    by, margin = np.full(points.x.size, -1, dtype=np.intp), np.full(points.x.size, np.nan)
    front = np.flatnonzero(on)
    front = front[np.argsort(points.x[front], kind="stable")]
    below = np.flatnonzero(~on)
    first = front[np.searchsorted(points.x[front], points.x[below], side="left")] if below.size else below
    rising = -points.y[front]
    last = front[np.searchsorted(rising, -points.y[below], side="right") - 1] if below.size else below
    gain_y = _gain(points.y[first], points.y[below])
    gain_x = _gain(points.x[last], points.x[below])
    by[below] = np.where(gain_y >= gain_x, first, last)
    margin[below] = np.maximum(gain_y, gain_x)
    return by, margin


def _gain(better: Floats, worse: Floats) -> Floats:
    """How many times better, less 1, of values turned by `_turn`: their sign says which way is better."""
    return np.where(better > 0, better / worse, worse / better) - 1


def _pick(names: pd.Series, by: NDArray[np.intp]) -> NDArray[np.object_]:
    values = names.to_numpy(dtype=object)
    return np.array([values[place] if place >= 0 else None for place in by], dtype=object)
