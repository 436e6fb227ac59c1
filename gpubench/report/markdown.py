"""A report for a pull request: counts, who beats the baseline and who loses to it, the frontier, what is not ok."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.caveats import Caveat
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import Metric, format_value
from gpubench.records import Outcome
from gpubench.report.comparison import Versus, compare
from gpubench.report.content import Content
from gpubench.report.triage import ShownRow, show
from gpubench.report.verdict import verdict
from gpubench.triage import Triage

__all__ = ["escape", "markdown_report", "table", "triage_markdown"]

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
        *[triage_markdown(found) for found in content.triages()],
        *_not_ok(content),
        *_warnings(content),
        _environment(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def triage_markdown(triage: Triage, run_name: str = "") -> str:
    """The triage table of a run; commands call it by `run_name`, or by its id."""
    shown = show(triage, run_name)
    notes = [f"> {escape(note)}" for note in shown.notes]
    parts = [f"### Crash triage of {escape(shown.run_id)}", escape(shown.headline), *notes]
    if shown.rows:
        head = ["signature", "cells", "rule", "nearest clean twin", "culprit", "verdicts", "reproduce"]
        rows = [_triage_row(row) for row in shown.rows[:MAX_ROWS]]
        parts.append(_escaped_table(head, rows, len(shown.rows)))
    return "\n\n".join(parts)


def _triage_row(row: ShownRow) -> list[str]:
    new = " **new**" if row.is_new else ""
    where = [
        f"stage {row.stage}",
        f"caught in {row.faulting}" if row.faulting else "",
        f"surfaced at {row.victim}" if row.victim else "",
        row.reason,
    ]
    return [
        "<br>".join([f"**{row.id}**{new} {escape(row.title)}", *(escape(text) for text in where if text)]),
        "<br>".join([f"**{row.num_cells:,}**: {escape(row.cells)}", escape(row.seen)]),
        escape(row.rule),
        "<br>".join(map(escape, row.twins)) or "–",
        escape(f"{row.culprit}; {row.basis}" if row.basis else row.culprit),
        "<br>".join([*([f"**{escape(row.diagnosis)}**"] if row.diagnosis else []), *map(escape, row.verdicts)]) or "–",
        _code(row.command),
    ]


def _code(text: str) -> str:
    """A command as code, to be copied as it is; as text, where it holds what would end the code or the cell."""
    return escape(text) if re.search(r"[`|\s]", text.replace(" ", "")) else f"`{text}`"


def escape(text: object, limit: int = MAX_TEXT) -> str:
    """A text within a table or a line: no markup, no line breaks, no cell borders, and of bounded length."""
    line = re.sub(r"\s+", " ", str(text)).strip()
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#@])", r"\\\1", line)


def _summary(content: Content) -> str:
    said = verdict(content)
    return f"**{escape(said.headline)}** {escape(said.rest)}".strip()


def _caveat(caveat: Caveat) -> str:
    lines = ["[!WARNING]", escape(caveat.text), *(f"- {escape(detail)}" for detail in caveat.details)]
    return "\n".join(f"> {line}" for line in lines)


def _comparison(content: Content) -> list[str]:
    """Every backend against the baseline, shape by shape: losses are counted and shown as wins are."""
    found = compare(content)
    if found is None:
        return []
    head = [*found.shape_axes, "backend"]
    for metric in found.metrics:
        head += [f"{metric.label} of {found.baseline}", metric.label, "speed-up (95% interval)"]
    body = [
        [*row.shape, row.backend, *(text for versus in row.versus for text in _texts(versus))] for row in found.rows
    ]
    tallies = [
        f"- **{escape(tally.backend)}**, {escape(tally.metric.label)}: {escape(tally.words)}"
        for tally in found.tallies()
    ]
    rows = table(head, body, right=_numbers(content, head))
    return [f"### Against {escape(found.baseline)}: {escape(found.title)}", "\n".join(tallies), rows]


def _texts(versus: Versus) -> list[str]:
    return [versus.baseline, versus.figure, " ".join(filter(None, [versus.value, versus.interval]))]


def _frontier(content: Content) -> list[str]:
    if not content.is_pareto:
        return []
    x, y = content.series[content.choice.x], content.series[content.choice.y]
    found = content.frontier()
    on = found[found[c.ON_FRONTIER]].sort_values(x.key, ascending=not x.higher_is_better)
    near = int(found[c.NEAR].sum())
    axes = content.axes
    body = [
        [row[c.CELL_ID], *(axis_text(content.wide.at[index, name]) for name in axes), *_both(row, x, y)]
        for index, row in on.iterrows()
    ]
    close = f" {near} more are beaten by less than the intervals can tell." if near else ""
    lines = [
        f"### Frontier: {escape(y.label)} against {escape(x.label)}",
        f"{len(on)} of {len(found)} ok cells; no other is as good in both and better in one.{close}",
    ]
    head = ["cell", *axes, x.label, y.label]
    return [*lines, table(head, body, right=[*_numbers(content, head), len(head) - 2, len(head) - 1])]


def _both(row: pd.Series, x: Metric, y: Metric) -> list[str]:
    return [format_value(float(row[metric.key]), metric.unit) for metric in (x, y)]


def _not_ok(content: Content) -> list[str]:
    rows = content.wide[content.wide[c.OUTCOME] != Outcome.OK]
    if rows.empty:
        return []
    axes = content.axes
    body = [
        [row[c.OUTCOME], row[c.CELL_ID], *(axis_text(row[name]) for name in axes), row[c.STAGE], row[c.REASON]]
        for _, row in rows.iterrows()
    ]
    return ["### Cells that are not ok", table(["outcome", "cell", *axes, "stage", "reason"], body)]


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


def _numbers(content: Content, head: Sequence[str]) -> list[int]:
    """The columns of a table that are axes with numbers; texts stand on the left."""
    return [place for place, name in enumerate(head) if name in content.numeric_axes]


def table(head: Sequence[str], body: Sequence[Sequence[object]], right: Iterable[int] = ()) -> str:
    """A table of texts, of at most MAX_ROWS rows; the columns in `right` stand on the right."""
    return _escaped_table(head, [list(map(escape, row)) for row in body[:MAX_ROWS]], len(body), right)


def _escaped_table(head: Sequence[str], rows: Sequence[Sequence[str]], count: int, right: Iterable[int] = ()) -> str:
    """A table of at most MAX_ROWS rows that are Markdown already; there are `count` of them."""
    numbers = set(right)
    rule = ["---:" if place in numbers else "---" for place in range(len(head))]
    lines = [_line(map(escape, head)), _line(rule), *map(_line, rows)]
    left_out = count - MAX_ROWS
    tail = f"\n\n{left_out:,} more rows are in the page and the CSV." if left_out > 0 else ""
    return "\n".join(lines) + tail


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
