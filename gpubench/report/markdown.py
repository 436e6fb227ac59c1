"""A report for a pull request: counts, who beats the baseline and who loses to it, the frontier, what is not ok."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.caveats import Caveat
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
MAX_WARNINGS = 12


def markdown_report(content: Content) -> str:
    """GitHub-flavoured Markdown; whatever users named or wrote is escaped."""
    parts = [
        f"## {escape(content.title)}",
        _summary(content),
        *map(_caveat, content.caveats()),
        *[f"> {escape(note)}" for note in content.choice.notes],
        *_comparison(content),
        *_frontier(content),
        *_not_ok(content),
        *_warnings(content),
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


def _caveat(caveat: Caveat) -> str:
    lines = ["[!WARNING]", escape(caveat.text), *(f"- {escape(detail)}" for detail in caveat.details)]
    return "\n".join(f"> {line}" for line in lines)


COMPARED = ("step_time", "kernel_sum")
"""What a user waits for, and what the GPU works for it: a backend can win one and lose the other."""

GRAIN_SHARE, GRAIN_S = 0.02, 64e-9
"""Kernel times closer than either are the same: nsys ticks in 32 ns, and one profiled pass doesn't show what drifts."""


@dataclass(frozen=True)
class _Versus:
    """One metric of a backend beside the baseline's."""

    baseline: str
    figure: str
    speedup: Ratio | None
    """None where one of the two is not ok or was not measured: its figure then says what became of it."""
    is_clear: bool = False
    """One is faster than the other beyond what the intervals, and for a profiler's figures its grain, can tell."""


@dataclass(frozen=True)
class _Row:
    """One shape and backend against the baseline at the same shape, by metric."""

    shape: tuple[str, ...]
    backend: str
    versus: tuple[_Versus, ...]


def _comparison(content: Content) -> list[str]:
    """Every backend against the baseline, shape by shape: losses are counted and shown as wins are."""
    baseline = str(content.runs[0].header.workload.baseline)
    metrics = [content.series[key] for key in COMPARED if key in content.series]
    backends = [str(name) for name in content.wide[c.BACKEND].unique()]
    if not metrics or baseline not in backends or len(backends) < 2:
        return []
    shape_axes = [name for name in content.axes if name != c.BACKEND]
    rows = _compare(content.wide, shape_axes, baseline, metrics)
    words = " and ".join(metric.label for metric in metrics)
    tallies = [line for place, metric in enumerate(metrics) for line in _tally(rows, place, metric)]
    head = [*shape_axes, "backend"]
    for metric in metrics:
        head += [f"{metric.label} of {baseline}", metric.label, "speed-up (95% interval)"]
    body = [[*row.shape, row.backend, *(text for found in row.versus for text in _texts(found))] for row in rows]
    table = _table(head, body, right=range(len(shape_axes)))
    return [f"### Against {escape(baseline)}: {escape(words)}", "\n".join(tallies), table]


def _texts(versus: _Versus) -> list[str]:
    return [versus.baseline, versus.figure, _speedup(versus)]


def _compare(wide: pd.DataFrame, shape_axes: list[str], baseline: str, metrics: Sequence[Metric]) -> list[_Row]:
    rows = []
    shapes = wide[shape_axes].map(_text).agg(tuple, axis=1) if shape_axes else pd.Series([()] * len(wide), wide.index)
    for shape, members in wide.groupby(shapes, sort=False):
        reference = members[members[c.BACKEND] == baseline].head(1)
        base = reference.iloc[0] if len(reference) else None
        for _, other in members[members[c.BACKEND] != baseline].iterrows():
            versus = tuple(_against(base, other, metric) for metric in metrics)
            rows.append(_Row(tuple(shape), str(other[c.BACKEND]), versus))
    return rows


def _against(base: pd.Series | None, other: pd.Series, metric: Metric) -> _Versus:
    figure = _figure(other, metric)
    if base is None:
        return _Versus("–", figure, None)
    before, after = _interval(base, metric), _interval(other, metric)
    speedup = ratio(before, after)
    if math.isnan(speedup.value):
        return _Versus(_figure(base, metric), figure, None)
    is_grain = metric.key != "step_time" and (
        abs(speedup.value - 1) <= GRAIN_SHARE or abs(before.median - after.median) <= GRAIN_S
    )
    return _Versus(_figure(base, metric), figure, speedup, speedup.is_clear and not is_grain)


def _interval(row: pd.Series, metric: Metric) -> Interval:
    ends = (row[metric.key], row[field(metric.key, c.LOW)], row[field(metric.key, c.HIGH)])
    return Interval(*(float(end) for end in ends))


def _figure(row: pd.Series, metric: Metric) -> str:
    if row[c.OUTCOME] != Outcome.OK:
        return str(row[c.OUTCOME])
    return format_value(float(row[metric.key]), metric.unit)


def _speedup(versus: _Versus) -> str:
    speedup = versus.speedup
    if speedup is None:
        return "–"
    sign = "≈" if not versus.is_clear else "▲" if speedup.value > 1 else "▼"
    decimals = 3 if 0.99 < speedup.value < 1.01 else 2
    value, low, high = (f"{number:.{decimals}f}" for number in (speedup.value, speedup.low, speedup.high))
    return f"{sign} {value}× ({low}–{high})"


def _tally(rows: list[_Row], place: int, metric: Metric) -> Iterator[str]:
    """A line per backend: how often it is faster, slower, and neither, with the best, the worst and the mean."""
    for backend in dict.fromkeys(row.backend for row in rows):
        of_backend = [row.versus[place] for row in rows if row.backend == backend]
        ratios = [versus.speedup.value for versus in of_backend if versus.speedup]
        clear = [versus.speedup.value for versus in of_backend if versus.speedup and versus.is_clear]
        faster, slower = [value for value in clear if value > 1], [value for value in clear if value < 1]
        words = [
            f"faster in {len(faster)}" + (f" (at best {max(faster):.2f}×)" if faster else ""),
            f"slower in {len(slower)}" + (f" (at worst {min(slower):.2f}×)" if slower else ""),
            f"no clear difference in {len(ratios) - len(faster) - len(slower)}",
        ]
        if len(of_backend) > len(ratios):
            words.append(f"not comparable in {len(of_backend) - len(ratios)}")
        mean = f"; geometric mean {_geometric_mean(ratios):.2f}×" if ratios else ""
        yield f"- **{escape(backend)}**, {escape(metric.label)}: {', '.join(words)} of {len(of_backend)} shapes{mean}"


def _geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


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


def _warnings(content: Content) -> list[str]:
    """What to beware of, with the number of cells: a reader of speed-ups must know which ran throttled."""
    found = content.cautions()
    if not found:
        return []
    lines = [f"- **{_count(len(caution.places))}**: {escape(caution.text)}" for caution in found[:MAX_WARNINGS]]
    if len(found) > MAX_WARNINGS:
        lines.append(f"- and {len(found) - MAX_WARNINGS} more, in the page")
    return ["### Warnings", "\n".join(lines)]


def _count(cells: int) -> str:
    return f"{cells} cell" if cells == 1 else f"{cells} cells"


def _environment(content: Content) -> str:
    versions = content.runs[0].header.fingerprint
    named = [f"{name} {versions[name]}" for name in ("driver", "cuda", "torch", "triton") if versions.get(name)]
    profilers = list(dict.fromkeys(name for run in content.runs for name in run.profilers()))
    facts = [
        ", ".join(content.devices()),
        *named,
        f"timed by {', '.join(content.timers())}" if content.timers() else "",
        f"profiled by {', '.join(profilers)}" if profilers else "",
        *content.ceilings().values(),
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
