"""Where the profiled steps' time went, as a table: what each inner range took of every cell's busy time."""

from __future__ import annotations

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import format_value
from gpubench.report.content import Content

__all__ = ["times_table"]

MOST_RANGES = 8
"""With a column of their own, those that take most of their cells' time; the others are one column."""
OTHERS = "other ranges"
OUTSIDE = "in no range"
NEGLIGIBLE = 0.001


def times_table(content: Content) -> tuple[list[str], list[list[str]]]:
    """A head and a row per cell that has inner ranges: its axes, busy time, and each outer range's part of it.

    Ranges within other ranges are left out, for their time is those others'. Both lists are empty without any.
    """
    inner = pd.concat([run.ranges() for run in content.runs], ignore_index=True)
    outer = inner[~inner[c.NESTED].astype(bool) & inner[c.SHARE].notna()]
    if outer.empty:
        return [], []
    order = outer.groupby(c.RANGE)[c.SHARE].sum().sort_values(ascending=False).index
    named = [str(name) for name in order[:MOST_RANGES]]
    axes = content.axes or [c.CELL_ID]
    cells = {(row[c.RUN_ID], row[c.CELL_ID]): row for _, row in content.wide.iterrows()}
    body = []
    for key, ranges in outer.groupby([c.RUN_ID, c.CELL_ID], sort=False):
        found = dict(zip(ranges[c.RANGE], zip(ranges["busy"], ranges[c.SHARE], strict=True), strict=True))
        parts = {name: found.pop(name, (0.0, 0.0)) for name in named}
        busy = float((ranges["busy"] / ranges[c.SHARE]).iloc[0])
        parts[OTHERS] = (sum(seconds for seconds, _ in found.values()), sum(share for _, share in found.values()))
        outside = 1 - sum(share for _, share in parts.values())
        parts[OUTSIDE] = (outside * busy, outside)
        row = cells[str(key[0]), str(key[1])]
        body.append([*(axis_text(row[name]) for name in axes), format_value(busy, "s"), *map(_part, parts.values())])
    head = [*axes, "busy", *named, OTHERS, OUTSIDE]
    told = [place for place in range(len(head)) if place <= len(axes) or any(line[place] for line in body)]
    return [head[place] for place in told], [[line[place] for place in told] for line in body]


def _part(part: tuple[float, float]) -> str:
    """`1.58 ms (31%)`; nothing for what took next to no time."""
    seconds, share = part
    return f"{format_value(seconds, 's')} ({share:.0%})" if share > NEGLIGIBLE else ""
