"""The Pareto plot as a figure, for a notebook or a paper; the page draws the same from its own data."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from gpubench.analysis import columns as c
from gpubench.analysis.frames import axes_of, field, series_of
from gpubench.analysis.frontier import frontier
from gpubench.analysis.metrics import Metric, format_value
from gpubench.records import Outcome
from gpubench.report.theme import FONT, LIGHT, OUTCOMES, SYMBOLS

__all__ = ["pareto_figure"]

MANY = 2000
"""Points beyond which intervals and labels are noise and WebGL draws."""
LOG_FACTOR = 20
"""Values that span more are on a logarithmic axis, as on the page."""
STRIP_HEIGHT = 0.2


def pareto_figure(
    wide: pd.DataFrame,
    metrics: Mapping[str, Metric],
    x: str = "tok_s_user",
    y: str = "tok_s_gpu",
    group: Sequence[str] = (c.BACKEND,),
    label: str = "",
) -> go.Figure:
    """y against x over the cells of a wide frame, with each group's frontier as a line; UsageError where none can be.

    `metrics` defines the frame's series, in the units in which the run has them; x and y are two of them. `label` is an
    axis whose value stands beside the points of a frontier. Cells that are not ok lie in a strip beneath, in the grid's
    order, for they have no place in the plot; hovering tells every axis, and the reason.

        run = load_run("results/mla-decode-20261121-093000")
        pareto_figure(run.wide(), run.metrics(), label="concurrency")
    """
    ends = (metrics[x], metrics[y])
    found = frontier(wide, *ends, group)
    points = wide.loc[found.index].join(found[[c.GROUP, c.ON_FRONTIER, c.ON_GROUP_FRONTIER]])
    failed = wide[wide[c.OUTCOME] != Outcome.OK]
    figure = go.Figure()
    for number, (name, members) in enumerate(points.groupby(c.GROUP, sort=False)):
        style = {"color": LIGHT.colours[number % len(SYMBOLS)], "symbol": SYMBOLS[number % len(SYMBOLS)]}
        line = members[members[c.ON_GROUP_FRONTIER]].sort_values([x, y])
        figure.add_trace(
            go.Scatter(
                x=line[x],
                y=line[y],
                mode="lines",
                line={"color": style["color"], "width": 1.6},
                opacity=0.75,
                legendgroup=str(name),
                showlegend=False,
                hoverinfo="skip",
            )
        )
        trace = _points(members, ends, style, label if len(points) <= MANY else "")
        figure.add_trace(trace.update(hovertext=list(_hover(members, metrics))))
    for outcome, members in failed.groupby(c.OUTCOME, sort=False):
        figure.add_trace(_strip(str(outcome), members).update(hovertext=list(_hover(members, metrics))))
    return figure.update_layout(_layout(points, *ends, has_strip=not failed.empty))


def _points(
    members: pd.DataFrame, ends: tuple[Metric, Metric], style: dict[str, str], label: str
) -> go.Scatter | go.Scattergl:
    x, y = ends
    is_small = len(members) <= MANY
    stands = members[c.ON_GROUP_FRONTIER]
    texts = members[label].map(_shown).where(stands, "") if label else None
    name = str(members[c.GROUP].iloc[0])
    return (go.Scatter if is_small else go.Scattergl)(
        x=members[x.key],
        y=members[y.key],
        error_x=_error_bars(members, x, style["color"]) if is_small else None,
        error_y=_error_bars(members, y, style["color"]) if is_small else None,
        mode="markers+text" if label else "markers",
        text=texts,
        textposition="top center",
        marker={
            **style,
            "size": stands.map({True: 9, False: 8}),
            "opacity": stands.map({True: 1.0, False: 0.42}),
            "line": {"color": LIGHT.ink, "width": members[c.ON_FRONTIER].map({True: 1.4, False: 0.0})},
        },
        name=html.escape(name),
        legendgroup=name,
        showlegend=name != "",
        hoverinfo="text",
    )


def _error_bars(members: pd.DataFrame, metric: Metric, colour: str) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": members[field(metric.key, c.HIGH)] - members[metric.key],
        "arrayminus": members[metric.key] - members[field(metric.key, c.LOW)],
        "thickness": 1,
        "width": 0,
        "color": f"{colour}80",
    }


def _strip(outcome: str, members: pd.DataFrame) -> go.Scatter:
    style = OUTCOMES[outcome]
    return go.Scatter(
        x=members[c.INDEX],
        y=[outcome] * len(members),
        xaxis="x2",
        yaxis="y2",
        mode="markers",
        marker={"color": style.colour, "symbol": style.symbol, "size": 8},
        showlegend=False,
        hoverinfo="text",
    )


def _hover(members: pd.DataFrame, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """Every axis and figure of each cell; Plotly reads a little HTML here, so what users named is escaped."""
    axes = [name for name in axes_of(members) if name not in c.FRONTIER]
    series = [(key, metrics[key].unit) for key in series_of(members) if metrics[key].is_reported]
    for _, row in members.iterrows():
        lines = [f"<b>{html.escape(str(row[c.CELL_ID]))}</b>", f"{c.BACKEND}: {html.escape(str(row[c.BACKEND]))}"]
        lines += [f"{html.escape(name)}: {html.escape(_shown(row[name]))}" for name in axes]
        figures = [(key, row[key], unit) for key, unit in series if not math.isnan(row[key])]
        lines += [f"{html.escape(key)}: {html.escape(format_value(value, unit))}" for key, value, unit in figures]
        if row[c.OUTCOME] != Outcome.OK:
            lines.append(f"{row[c.OUTCOME]}: {html.escape(str(row[c.REASON]))}")
        yield "<br>".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:g}"
    return str(value)


def _layout(points: pd.DataFrame, x: Metric, y: Metric, *, has_strip: bool) -> dict[str, object]:
    floor = STRIP_HEIGHT + 0.14 if has_strip else 0.0
    words = "<br>".join(html.escape(_defined(points, metric)) for metric in (x, y))
    axis = {"gridcolor": LIGHT.grid, "zeroline": False, "linecolor": LIGHT.grid}
    return {
        "template": "none",
        "font": {"family": FONT, "size": 12, "color": LIGHT.ink},
        "height": 760 if has_strip else 560,
        "margin": {"l": 90, "r": 30, "t": 50, "b": 110},
        "annotations": [
            {
                "text": words,
                "align": "left",
                "showarrow": False,
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": 0,
                "yanchor": "top",
                "yshift": -52,
                "font": {"size": 11, "color": LIGHT.muted},
            }
        ],
        "hovermode": "closest",
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        "xaxis": {**axis, "title": {"text": html.escape(x.title)}, **_scale(points[x.key]), "anchor": "y"},
        "yaxis": {**axis, "title": {"text": html.escape(y.title)}, **_scale(points[y.key]), "domain": [floor, 1]},
        "xaxis2": {**axis, "title": {"text": "not ok, in the grid's order"}, "showticklabels": False, "anchor": "y2"},
        "yaxis2": {
            **axis,
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [str(outcome) for outcome in reversed(OUTCOMES)],
            "dtick": 1,
            "domain": [0, STRIP_HEIGHT],
            "visible": has_strip,
        },
    }


def _defined(points: pd.DataFrame, metric: Metric) -> str:
    """`step time: one step from start to end; lower is better, timed by cuda_event`."""
    timers = [str(timer) for timer in points[field(metric.key, c.TIMER)].dropna().unique() if timer]
    by = f", timed by {' and '.join(timers)}" if timers else ""
    return f"{metric.label}: {metric.formula.removesuffix('.')}; {metric.better} is better{by}"


def _scale(values: pd.Series) -> dict[str, object]:
    is_log = len(values) > 0 and values.max() / values.min() > LOG_FACTOR
    return {"type": "log", "dtick": "D2", "tickformat": "~s"} if is_log else {"type": "linear"}
