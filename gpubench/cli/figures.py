"""Figures as a line of a terminal shows them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.markup import escape

from gpubench.analysis.merge import merge_cells
from gpubench.analysis.metrics import define, format_tail, format_value
from gpubench.cli.console import plain
from gpubench.records import CellRecord, Measurement, Outcome, Pass
from gpubench.store import ARTIFACTS, read_run

__all__ = ["OUTCOME_STYLES", "PROFILED", "failure_lines", "headline"]

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


PROFILED = ("kernel_sum", "span")
"""Of a profiled repetition, what tells most: how long its kernels ran, and how long they took with the gaps."""
TAIL = (0.5, 0.9, 0.99)
"""The percentiles of what each request sees for itself."""


def headline(records: Sequence[CellRecord]) -> str:
    """`step_time 93.1 µs  tok_s_user 10,741 tok/s (cuda_event)`: medians over all trials of a cell's pass.

    Those of the step time and of one metric that follows from it; of the profiled pass, `PROFILED`. Where there are
    latencies of requests, they are all that is shown, with percentiles. A cell that is another program has figures of
    its own ranges only: those of the first are shown, by its name.
    """
    found = [measurement for record in records for measurement in record.measurements if measurement.samples]
    range_ = "" if any(not measurement.range for measurement in found) else next((m.range for m in found), "")
    pooled: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in found:
        if measurement.range == range_:
            pooled[measurement.metric].append(measurement)
    is_profiled = any(record.pass_ is Pass.PROFILE for record in records)
    tailed = [name for name, trials in pooled.items() if define(name, trials[0].unit).has_tail]
    names = [name for name in PROFILED if name in pooled] if is_profiled else tailed or list(pooled)[:2]
    shown = {name: pooled[name] for name in names}
    parts = [f"{name} {_tail(trials) if name in tailed else _median(trials)}" for name, trials in shown.items()]
    timers = {str(trials[0].timer) for trials in shown.values() if trials[0].timer}
    notes = [*(["p50 / p90 / p99"] if any(name in tailed for name in names) else []), *sorted(timers)]
    return (f"{range_}: " if range_ else "") + "  ".join(parts) + (f" ({', '.join(notes)})" if notes else "")


def _median(trials: Sequence[Measurement]) -> str:
    value = statistics.median(sample for trial in trials for sample in trial.samples)
    return format_value(value, define(trials[0].metric, trials[0].unit).unit)


def _tail(trials: Sequence[Measurement]) -> str:
    samples = np.concatenate([trial.samples for trial in trials])
    return format_tail(np.quantile(samples, TAIL).tolist(), define(trials[0].metric, trials[0].unit).unit)


def failure_lines(path: Path, most: int) -> Iterator[str]:
    """The failed cells of a run, a line each, with the place of their logs; at most `most`, then how many more."""
    failed = [result for result in merge_cells(read_run(path)) if result.outcome and result.outcome.is_failure]
    for result in failed[:most]:
        assert result.outcome is not None, "only cells with an outcome can have failed"
        logs = path / ARTIFACTS / result.cell.cell_id
        where = f"  [dim]{escape(str(logs))}[/]" if logs.is_dir() else ""
        style = OUTCOME_STYLES[result.outcome]
        yield f"[{style}]{result.outcome:<8}[/] {result.cell.cell_id}  {escape(plain(result.reason))}{where}"
    if len(failed) > most:
        yield f"[dim]… and {len(failed) - most} more failed cells, all in the report[/]"
