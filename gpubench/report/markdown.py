"""A report for a pull request: counts, who beats the baseline and who loses to it, the frontier, what is not ok."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field
from gpubench.analysis.metrics import Metric, format_value
from gpubench.analysis.statistics import Interval, Ratio, ratio
from gpubench.records import Outcome
from gpubench.report.content import Content
from gpubench.report.verdict import verdict

__all__ = ["markdown_report"]

MAX_ROWS = 60
"""Per table. GitHub refuses a comment of more than 65,536 characters; what is left out is counted and in the CSV."""
MAX_TEXT = 200


def markdown_report(content: Content) -> str:
    """GitHub-flavoured Markdown; whatever users named or wrote is escaped."""
    parts = [
        f"## {escape(content.title)}",
        _summary(content),
        *[f"> {escape(note)}" for note in content.choice.notes],
        *_comparison(content),
        *_frontier(content),
        *_not_ok(content),
        _environment(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: object) -> str:
    """A text within a table or a line: no markup, no line breaks, no cell borders, and of bounded length."""
    line = re.sub(r"\s+", " ", str(text)).strip()
    line = line if len(line) <= MAX_TEXT else line[: MAX_TEXT - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", line)


def _summary(content: Content) -> str:
    said = verdict(content)
    return f"**{escape(said.headline)}** {escape(said.rest)}".strip()


@dataclass(frozen=True)
class _Row:
    """One shape and backend against the baseline at the same shape."""

    shape: tuple[str, ...]
    baseline: str
    backend: str
    figure: str
    speedup: Ratio | None
    """None where one of the two is not ok: `figure` then says what became of it."""


def _comparison(content: Content) -> list[str]:
    """Every backend against the baseline, shape by shape: losses are counted and shown as wins are."""
    baseline = content.runs[0].header.workload.baseline
    metric = content.series.get("step_time")
    backends = [str(name) for name in content.wide[c.BACKEND].unique()]
    if metric is None or baseline not in backends or len(backends) < 2:
        return []
    shape_axes = [name for name in content.axes if name != c.BACKEND]
    rows = _compare(content.wide, shape_axes, str(baseline), metric)
    lines = [f"### Step time against {escape(baseline)}", _tally(rows, str(baseline))]
    head = [*shape_axes, str(baseline), "backend", "step time", "speed-up (95% interval)"]
    body = [[*row.shape, row.baseline, row.backend, row.figure, _speedup(row.speedup)] for row in rows]
    return [*lines, _table(head, body, right=range(len(shape_axes)))]


def _compare(wide: pd.DataFrame, shape_axes: list[str], baseline: str, metric: Metric) -> list[_Row]:
    rows = []
    shapes = wide[shape_axes].map(_text).agg(tuple, axis=1) if shape_axes else pd.Series([()] * len(wide), wide.index)
    for shape, members in wide.groupby(shapes, sort=False):
        reference = members[members[c.BACKEND] == baseline].head(1)
        base = reference.iloc[0] if len(reference) else None
        for _, other in members[members[c.BACKEND] != baseline].iterrows():
            speedup = ratio(_interval(base, metric), _interval(other, metric)) if base is not None else None
            is_known = speedup is not None and not math.isnan(speedup.value)
            base_text = _figure(base, metric) if base is not None else "–"
            rows.append(
                _Row(
                    tuple(shape),
                    base_text,
                    str(other[c.BACKEND]),
                    _figure(other, metric),
                    speedup if is_known else None,
                )
            )
    return rows


def _interval(row: pd.Series, metric: Metric) -> Interval:
    ends = (row[metric.key], row[field(metric.key, c.LOW)], row[field(metric.key, c.HIGH)])
    return Interval(*(float(end) for end in ends))


def _figure(row: pd.Series, metric: Metric) -> str:
    if row[c.OUTCOME] != Outcome.OK:
        return str(row[c.OUTCOME])
    return format_value(float(row[metric.key]), metric.unit)


def _speedup(speedup: Ratio | None) -> str:
    if speedup is None:
        return "–"
    sign = "≈" if not speedup.is_clear else "▲" if speedup.value > 1 else "▼"
    decimals = 3 if 0.99 < speedup.value < 1.01 else 2
    value, low, high = (f"{number:.{decimals}f}" for number in (speedup.value, speedup.low, speedup.high))
    return f"{sign} {value}× ({low}–{high})"


def _tally(rows: list[_Row], baseline: str) -> str:
    """A line per backend: how often it is faster, slower, and neither, with the best, the worst and the mean."""
    lines = []
    for backend in dict.fromkeys(row.backend for row in rows):
        of_backend = [row for row in rows if row.backend == backend]
        known = [row for row in of_backend if row.speedup]
        ratios = [row.speedup for row in known if row.speedup]
        faster = [item.value for item in ratios if item.low > 1]
        slower = [item.value for item in ratios if item.high < 1]
        words = [
            f"faster in {len(faster)}" + (f" (at best {max(faster):.2f}×)" if faster else ""),
            f"slower in {len(slower)}" + (f" (at worst {min(slower):.2f}×)" if slower else ""),
            f"no clear difference in {len(ratios) - len(faster) - len(slower)}",
        ]
        if len(of_backend) > len(known):
            words.append(f"not comparable in {len(of_backend) - len(known)}")
        mean = f"; geometric mean {_geometric_mean(ratios):.2f}×" if ratios else ""
        lines.append(f"- **{escape(backend)}**: {', '.join(words)} of {len(of_backend)} shapes{mean}")
    return "\n".join(lines)


def _geometric_mean(ratios: Sequence[Ratio]) -> float:
    return math.exp(sum(math.log(item.value) for item in ratios) / len(ratios))


def _frontier(content: Content) -> list[str]:
    if not content.is_pareto:
        return []
    x, y = content.series[content.choice.x], content.series[content.choice.y]
    found = content.frontier()
    on = found[found[c.ON_FRONTIER]].sort_values(x.key, ascending=not x.higher_is_better)
    near = int(found[c.NEAR].sum())
    axes = content.axes
    body = [
        [row[c.CELL_ID], *(_text(content.wide.at[index, name]) for name in axes), *_both(row, x, y)]
        for index, row in on.iterrows()
    ]
    close = f" {near} more are beaten by less than the intervals can tell." if near else ""
    lines = [
        f"### Frontier: {escape(y.label)} against {escape(x.label)}",
        f"{len(on)} of {len(found)} ok cells; no other is as good in both and better in one.{close}",
    ]
    return [*lines, _table(["cell", *axes, x.label, y.label], body, right=range(1, len(axes) + 3))]


def _both(row: pd.Series, x: Metric, y: Metric) -> list[str]:
    return [format_value(float(row[metric.key]), metric.unit) for metric in (x, y)]


def _not_ok(content: Content) -> list[str]:
    rows = content.wide[content.wide[c.OUTCOME] != Outcome.OK]
    if rows.empty:
        return []
    axes = content.axes
    body = [
        [row[c.OUTCOME], row[c.CELL_ID], *(_text(row[name]) for name in axes), row[c.STAGE], row[c.REASON]]
        for _, row in rows.iterrows()
    ]
    return ["### Cells that are not ok", _table(["outcome", "cell", *axes, "stage", "reason"], body)]


def _environment(content: Content) -> str:
    versions = content.runs[0].header.fingerprint
    named = [f"{name} {versions[name]}" for name in ("driver", "cuda", "torch", "triton") if versions.get(name)]
    facts = [
        ", ".join(content.devices()),
        *named,
        f"timed by {', '.join(content.timers())}" if content.timers() else "",
        ", ".join(content.dates()),
        ", ".join(run.run_id for run in content.runs),
    ]
    return "<sub>" + " · ".join(escape(fact) for fact in facts if fact) + "</sub>"


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "–" if value is None or value != value else str(value)  # noqa: PLR0124 (NaN is not itself)


def _table(head: Sequence[str], body: Sequence[Sequence[object]], right: Iterable[int] = ()) -> str:
    numbers = set(right)
    rule = ["---:" if place in numbers else "---" for place in range(len(head))]
    lines = [_line(map(escape, head)), _line(rule), *(_line(map(escape, row)) for row in body[:MAX_ROWS])]
    left_out = len(body) - MAX_ROWS
    tail = f"\n\n{left_out:,} more rows are in the page and the CSV." if left_out > 0 else ""
    return "\n".join(lines) + tail


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
