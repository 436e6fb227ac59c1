"""Figures as a line of a terminal shows them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape

from gpubench.analysis.merge import merge_cells
from gpubench.analysis.metrics import format_value
from gpubench.records import CellRecord, Outcome
from gpubench.store import ARTIFACTS, read_run

__all__ = ["OUTCOME_STYLES", "failure_lines", "headline"]

OUTCOME_STYLES = {
    Outcome.OK: "green",
    Outcome.SKIPPED: "dim",
    Outcome.MISMATCH: "magenta",
    Outcome.INVALID: "magenta",
    Outcome.ERROR: "red",
    Outcome.OOM: "yellow",
    Outcome.TIMEOUT: "yellow",
    Outcome.CRASH: "bold red",
}


def headline(record: CellRecord) -> str:
    """`step_time 93.1 µs (cuda_event)`: the median of the trial's first metric, and of one it derives."""
    shown = [m for m in record.measurements if m.samples and not m.range][:2]
    parts = [f"{m.metric} {format_value(statistics.median(m.samples), m.unit)}" for m in shown]
    timer = f" ({shown[0].timer})" if shown and shown[0].timer else ""
    return "  ".join(parts) + timer


def failure_lines(path: Path, most: int) -> Iterator[str]:
    """The failed cells of a run, a line each, with the place of their logs; at most `most`, then how many more."""
    failed = [result for result in merge_cells(read_run(path)) if result.outcome and result.outcome.is_failure]
    for result in failed[:most]:
        assert result.outcome is not None, "only cells with an outcome can have failed"
        logs = path / ARTIFACTS / result.cell.cell_id
        where = f"  [dim]{escape(str(logs))}[/]" if logs.is_dir() else ""
        style = OUTCOME_STYLES[result.outcome]
        yield f"[{style}]{result.outcome:<8}[/] {result.cell.cell_id}  {escape(result.reason)}{where}"
    if len(failed) > most:
        yield f"[dim]… and {len(failed) - most} more failed cells, all in the report[/]"
