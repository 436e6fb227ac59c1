"""A report for a pull request: counts, who beats the baseline and who loses to it, the frontier, what is not ok."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.caveats import Caveat
from gpubench.analysis.frames import field
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import Metric, compared_times, format_value
from gpubench.analysis.statistics import SampleWarning
from gpubench.records import Outcome
from gpubench.report.comparison import Row, Versus, compare
from gpubench.report.content import Content
from gpubench.report.labels import label_facts
from gpubench.report.latencies import latency_table
from gpubench.report.memory import memory_table
from gpubench.report.starts import start_table
from gpubench.report.times import times_table
from gpubench.report.triage import ShownRow, show
from gpubench.report.verdict import verdict
from gpubench.triage import Triage

__all__ = ["NOTE_TEXT", "escape", "markdown_report", "table", "triage_markdown"]

MAX_ROWS = 60
"""Per table. GitHub refuses a comment of more than 65,536 characters; what is left out is counted and in the CSV."""
MAX_OPEN = 20
"""Rows of a table that is open at once: a longer one is folded, so that a comment stays a page long."""
MAX_TEXT = 200
"""Characters of a text in a table, beyond which it is cut."""
NOTE_TEXT = 1000
"""Of one that stands by itself, and of which no word may be lost."""
MAX_WARNINGS = 12


def markdown_report(content: Content) -> str:
    """GitHub-flavoured Markdown; whatever users named or wrote is escaped."""
    parts = [
        f"## {escape(content.title)}",
        _summary(content),
        *map(_caveat, content.caveats()),
        "\n".join(f"- **{escape(run_id)}**: {escape(words, NOTE_TEXT)}" for run_id, words in content.run_words()),
        *[f"> {escape(note, NOTE_TEXT)}" for note in content.choice.notes],
        *(_comparison(content) or _figures(content)),
        *_frontier(content),
        *_latencies(content),
        *_memory(content),
        *_starts(content),
        *_times(content),
        *[triage_markdown(found) for found in content.triages()],
        *_not_ok(content),
        *_warnings(content),
        _environment(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def triage_markdown(triage: Triage, run_name: str = "") -> str:
    """The triage table of a run; commands call it `run_name`, or by where it lies."""
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
    lines = ["[!WARNING]", escape(caveat.text, NOTE_TEXT), *(f"- {escape(detail)}" for detail in caveat.details)]
    return "\n".join(f"> {line}" for line in lines)


def _comparison(content: Content) -> list[str]:
    """Every backend or value against the baseline, shape by shape: losses are counted and shown as wins are."""
    found = compare(content)
    if found is None:
        return []
    head = [*found.shape_axes, found.against.axis]
    for metric in found.metrics:
        head += [f"{metric.label} of {found.baseline}", metric.label, "speed-up (95% interval)"]
    tallies = [
        f"- **{escape(tally.name)}**, {escape(tally.metric.label)}: {escape(tally.words)}" for tally in found.tallies()
    ]
    right = _numbers(content, head)
    parts = [f"### Against {escape(found.baseline)}: {escape(found.title)}", "\n".join(tallies)]
    losses = [row for row in found.rows if row.is_loss]
    if len(found.rows) > MAX_OPEN and 0 < len(losses) <= MAX_OPEN:
        parts += [f"Slower than {escape(found.baseline)}:", table(head, _versus_rows(losses), right)]
    return [
        *parts,
        _folded(f"All {len(found.rows):,} rows", table(head, _versus_rows(found.rows), right), len(found.rows)),
    ]


def _versus_rows(rows: Sequence[Row]) -> list[list[str]]:
    return [[*row.shape, row.value, *(text for versus in row.versus for text in _texts(versus))] for row in rows]


def _folded(summary: str, text: str, rows: int, most: int = MAX_OPEN) -> str:
    """A table under a line to click, if it is a long one."""
    if rows <= most:
        return text
    return f"<details><summary>{escape(summary)}</summary>\n\n{text}\n\n</details>"


def _told(content: Content) -> list[str]:
    """The series that tables are of: the times that are compared, or else what is plotted."""
    times = [metric.key for metric in compared_times(content.series)]
    return times or [key for key in dict.fromkeys((content.choice.x, content.choice.y)) if key in content.series]


def _figures(content: Content) -> list[str]:
    """Cell by cell, where there is neither a baseline nor a frontier to show them by."""
    keys, ok = _told(content), content.wide[content.wide[c.OUTCOME] == Outcome.OK]
    if content.is_pareto or not keys or ok.empty:
        return []
    axes = content.axes
    head = [*(axes or ["cell"]), *(content.series[key].label for key in keys)]
    body = [
        [
            *([axis_text(row[name]) for name in axes] or [row[c.CELL_ID]]),
            *(_with_interval(content, row, key) for key in keys),
        ]
        for _, row in ok.iterrows()
    ]
    return [
        "### Figures (95% interval)",
        _folded(f"All {len(body):,} rows", table(head, body, _numbers(content, head)), len(body)),
    ]


def _with_interval(content: Content, row: pd.Series, key: str) -> str:
    unit = content.series[key].unit
    value, low, high = (format_value(float(row[name]), unit) for name in (key, field(key, c.LOW), field(key, c.HIGH)))
    return f"{value} ({low} – {high})" if value != "–" else value


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
    close = f" Beaten by less than the intervals can tell: {near} more." if near else ""
    lines = [
        f"### Frontier: {escape(y.label)} against {escape(x.label)}",
        f"{len(on)} of {len(found)} ok cells; no other is as good in both and better in one.{close}",
    ]
    head = ["cell", *axes, x.label, y.label]
    return [*lines, table(head, body, right=[*_numbers(content, head), len(head) - 2, len(head) - 1])]


def _latencies(content: Content) -> list[str]:
    found = latency_table(content)
    if not found.body:
        return []
    right = [place for place, is_number in enumerate(found.is_number) if is_number]
    text, count = table(found.head, found.body, right), len(found.body)
    by = f", by {escape(found.timers)}" if found.timers else ""
    return [f"### Latencies (p50 / p90 / p99{by})", _folded(f"All {count:,} rows", text, count)]


def _memory(content: Content) -> list[str]:
    """What the cells' CUDA graphs took, of all buckets together."""
    head, body = memory_table(content)
    if not body:
        return []
    text = table(head, body, right=range(2, len(head)))
    return ["### Memory of captured graphs", _folded(f"{_count(len(body))}, one by one", text, len(body))]


def _starts(content: Content) -> list[str]:
    """What warming up and capturing took, and of starts in two phases, what was foretold."""
    starts = start_table(content)
    if not starts.body:
        return []
    text = table(starts.head, starts.body, right=range(1, len(starts.head)))
    return [
        "### Start of captured steps",
        starts.words,
        _folded(f"All {len(starts.body):,} rows", text, len(starts.body)),
    ]


def _times(content: Content) -> list[str]:
    """What the ranges within a step took of its time on the GPU, under the profiler."""
    head, body = times_table(content)
    if not body:
        return []
    lines = ["### Where the time goes", "Of a profiled step's time on the GPU, what ran in each range of it."]
    return [*lines, _folded(f"{_count(len(body))}, one by one", table(head, body, _numbers(content, head)), len(body))]


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
    text = table(["outcome", "cell", *axes, "stage", "reason"], body)
    # the triage has told of the failures already
    most = 0 if content.triages() else MAX_OPEN
    return ["### Cells that are not ok", _folded(f"{_count(len(body))}, one by one", text, len(body), most)]


def _warnings(content: Content) -> list[str]:
    """What to beware of, with the number of cells: a reader of speed-ups must know which ran throttled."""
    found = content.cautions()
    lines = [f"- **{_count(len(caution.places))}**: {escape(caution.text)}" for caution in found[:MAX_WARNINGS]]
    if len(found) > MAX_WARNINGS:
        lines.append(f"- and {len(found) - MAX_WARNINGS} more, in the page")
    lines += _sample_warnings(content)
    return ["### Warnings", "\n".join(lines)] if lines else []


def _sample_warnings(content: Content) -> list[str]:
    """What the samples themselves say against a figure, of the metrics that this report is about."""
    lines = []
    for key in _told(content):
        said = Counter(
            text for texts in content.wide[field(key, c.WARNINGS)].fillna("") for text in texts.split(", ") if text
        )
        label = escape(content.series[key].label)
        lines += [f"- **{_count(said[kind])}**: {label} {kind.sentence}" for kind in SampleWarning if said[kind]]
    return lines


def _count(cells: int) -> str:
    return f"{cells} cell" if cells == 1 else f"{cells} cells"


def _environment(content: Content) -> str:
    header = content.runs[0].header
    versions = header.fingerprint
    names = ("driver", "cuda", "torch", "triton", *header.environment.get("peers", ()))
    named = [f"{name} {versions[name]}" for name in names if versions.get(name)]
    profilers = list(dict.fromkeys(name for run in content.runs for name in run.profilers()))
    facts = [
        ", ".join(content.devices()),
        *(f"{name}: {', '.join(texts)}" for name, texts in label_facts(content).items()),
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
