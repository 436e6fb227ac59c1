"""A comparison for a pull request: what regressed first, what is the same only counted."""

from __future__ import annotations

from collections.abc import Sequence

from gpubench.analysis.compare import RunComparison
from gpubench.analysis.verdicts import Verdict
from gpubench.report.compare_text import ShownComparison, ShownRow, show_comparison
from gpubench.report.markdown import NOTE_TEXT, escape, table

__all__ = ["compare_markdown"]

MOST_LISTED = 60


def compare_markdown(comparison: RunComparison) -> str:
    """GitHub-flavoured Markdown; whatever users named or wrote is escaped."""
    shown = show_comparison(comparison)
    runs = f"{escape(comparison.before.run_id)} → {escape(comparison.after.run_id)}"
    parts = [
        f"## {runs}",
        f"**{escape(shown.headline)}**",
        "\n".join(f"- {escape(tally)}" for tally in shown.tallies),
        *[f"> {escape(note, NOTE_TEXT)}" for note in shown.notes],
        _cells(shown),
        _frontiers(shown),
        _line(comparison, shown),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _cells(shown: ShownComparison) -> str:
    told = [row for row in shown.rows if row.verdict is not Verdict.SAME]
    if not told:
        return ""
    notes = any(row.note for row in told[:MOST_LISTED])
    head = ["verdict", *shown.axes, "metric", "before", "after", "change", *(["note"] if notes else [])]
    body = [_row(row, notes) for row in told[:MOST_LISTED]]
    right = range(len(shown.axes) + 2, len(shown.axes) + 4)
    more = len(told) - len(body)
    tail = f"\n\n{more:,} more lines are in the page and the JSON." if more > 0 else ""
    return table(head, body, right) + tail


def _row(row: ShownRow, notes: bool) -> list[str]:
    verdict = f"{row.glyph} {row.verdict}"
    texts = [verdict, *row.axes, row.metric, row.before, row.after, f"{row.change} {row.interval}".strip()]
    return [*texts, *([row.note] if notes else [])]


def _frontiers(shown: ShownComparison) -> str:
    if not shown.movements:
        return ""
    body = [
        [f"{found.glyph} {found.group}".strip(), found.area, found.cells, "; ".join(found.levels) or "–"]
        for found in shown.movements
    ]
    return f"### Frontiers: {escape(shown.frontier)}\n\n" + table(["group", "area", "cells", "at fixed x"], body, [2])


def _line(comparison: RunComparison, shown: ShownComparison) -> str:
    facts: Sequence[str] = [
        comparison.devices,
        comparison.dates,
        f"differs: {'; '.join(shown.differences)}" if shown.differences else "same software and settings",
        shown.rule,
    ]
    return "<sub>" + " · ".join(escape(fact, NOTE_TEXT) for fact in facts if fact) + "</sub>"
