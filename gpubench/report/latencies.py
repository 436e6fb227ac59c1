"""What requests waited, as a table: of every cell that is ok, the percentiles of each latency."""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import format_tail
from gpubench.records import Outcome
from gpubench.report.content import Content

__all__ = ["LatencyTable", "latency_table"]


@dataclass(frozen=True)
class LatencyTable:
    """A row per ok cell: its axes, and p50, p90 and p99 of each metric that has a tail; no rows without any."""

    head: list[str]
    body: list[list[str]]
    is_number: list[bool]
    """Of each column, whether it stands on the right."""
    timers: str
    """Who read them: `wall`."""


def latency_table(content: Content) -> LatencyTable:
    tailed = {key: metric for key, metric in content.series.items() if metric.has_tail}
    ok = content.wide[content.wide[c.OUTCOME] == Outcome.OK]
    if not tailed or ok.empty:
        return LatencyTable([], [], [], "")
    axes = content.axes or [c.CELL_ID]
    body = [
        [
            *(axis_text(row[name]) for name in axes),
            *(
                format_tail([float(row[name]) for name in (key, field(key, c.P90), field(key, c.P99))], metric.unit)
                for key, metric in tailed.items()
            ),
        ]
        for _, row in ok.iterrows()
    ]
    head = [*axes, *(metric.label for metric in tailed.values())]
    is_number = [name in content.numeric_axes or name not in axes for name in head]
    return LatencyTable(head, body, is_number, content.timers_of(*tailed))
