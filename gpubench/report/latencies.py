"""What requests waited, as a table: of every cell that is ok, the percentiles of each latency."""

from __future__ import annotations

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import format_tail
from gpubench.records import Outcome
from gpubench.report.content import Content

__all__ = ["latency_table"]


def latency_table(content: Content) -> tuple[list[str], list[list[str]]]:
    """A head and a row per ok cell: its axes, and p50, p90, p99 of each metric that has a tail; empty without any."""
    tailed = {key: metric for key, metric in content.series.items() if metric.has_tail}
    ok = content.wide[content.wide[c.OUTCOME] == Outcome.OK]
    if not tailed or ok.empty:
        return [], []
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
    return [*axes, *(metric.label for metric in tailed.values())], body
