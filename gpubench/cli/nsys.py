"""`gpubench nsys FILE`: any nsys report, projected onto the GPU and read out."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gpubench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from gpubench.profilers.projection import Projection

__all__ = ["nsys"]

_INSTANCE_COLUMNS = 9  # of the table's columns, those that the help promises
_GPU_TIME = {"ranges": "busy_ns_median", "instances": "busy_ns", "captured": "busy_ns"}
_REPORT_SUFFIXES = (".nsys-rep", ".qdrep")
_PIPE_WIDTH = 200
_NAME_WIDTH = 72  # of a kernel's name; csv and json have it whole


def nsys(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A report (.nsys-rep) or an export (.sqlite).")],
    range_: Annotated[
        str, typer.Option("--range", metavar="REGEX", help="Only ranges whose name this is found in.")
    ] = "",
    instances: Annotated[bool, typer.Option("--instances", help="A line per range instance.")] = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="A line per range and kernel.")] = False,
    captured: Annotated[
        bool, typer.Option("--captured", help="Replayed kernels by the range that they were captured in.")
    ] = False,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, metavar="N", help="Only the N lines with most GPU time; of kernels, N per range."),
    ] = None,
    format_: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="csv and json go to stdout, with nothing else.")
    ] = "table",
) -> None:
    """Project the NVTX ranges of an nsys report onto the GPU: what ran because of a range, and for how long.

    Ranges are summed up by name; --instances, --kernels or --captured shows another table. Columns, times in ns:

    \b
    range, instances, span_ns_median, busy_ns_median, kernel_sum_ns_median,
      gap_ns_median, operations, launches, host_ns_median,
      launch_delay_ns_median, queued_behind
    --instances: range, start_ns, span_ns, busy_ns, kernel_sum_ns, gap_ns,
      operations, launches, host_ns
    --kernels: range, kernel, kind, count, total_ns, median_ns
    --captured: range, captured, instance, times, start_ns, span_ns, busy_ns,
      kernel_sum_ns, gap_ns, operations

    span: from the first start to the last end of what the range launched. busy: the time in which any of it ran.
    kernel_sum: its kernels' durations, added up; unknown where CUDA graphs were traced as a whole. gap: span - busy.
    A range that launched nothing has no figures.
    """
    chosen = [name for name, on in {"instances": instances, "kernels": kernels, "captured": captured}.items() if on]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} are two tables: ask for one at a time")
    pattern = _compile(range_)

    from gpubench.profilers.projection import project

    with _exported(file) as export:
        projection = project(export)
    name = chosen[0] if chosen else "ranges"
    table = _select(projection, name, pattern, top)
    if format_ == "table":
        _print_table(table)
    else:
        text = table.to_csv(index=False, float_format="%.15g") if format_ == "csv" else _to_json(table)
        typer.echo(text, nl=not text.endswith("\n"))
    for note in _notes(projection):
        typer.echo(f"note: {note}", err=True)


def _compile(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise UsageError(f"--range {regex!r} is not a regular expression: {error}") from None


@contextmanager
def _exported(file: Path) -> Iterator[Path]:
    """The sqlite export of a file, made for the occasion if the file is a report."""
    if file.suffix not in _REPORT_SUFFIXES:
        yield file
        return
    import tempfile

    from gpubench.errors import ProfilerError, TraceError
    from gpubench.profilers.nsys import export_report, find_nsys

    if not file.is_file():
        raise ProfilerError(f"{file}: no such report")
    with tempfile.TemporaryDirectory(prefix="gpubench-nsys-") as folder:
        try:
            tool = find_nsys()
        except ProfilerError as error:
            raise ProfilerError(f"{file}: a report has to be exported to be read, and {error}") from None
        export = export_report(tool, file, Path(folder, f"{file.stem}.sqlite"))
        try:
            yield export
        except TraceError as error:
            raise TraceError(str(error).replace(str(export), str(file))) from None


def _select(projection: Projection, name: str, pattern: re.Pattern[str], top: int | None) -> pd.DataFrame:
    """The table asked for: its lines of matching ranges, cut to the top ones."""
    table: pd.DataFrame = getattr(projection, name)
    if name == "instances":
        table = table[list(table.columns[:_INSTANCE_COLUMNS])]
    names = projection.ranges["range"]
    if not names.str.contains(pattern).any():
        known = ", ".join(names.head(5))
        raise UsageError(f"--range {pattern.pattern!r} is found in no range; there are {known}")
    table = table[table["range"].str.contains(pattern)]
    if top is not None:
        # kernels come most time first already, range by range
        longest_first = (
            table if name == "kernels" else table.sort_values(_GPU_TIME[name], ascending=False, kind="stable")
        )
        table = longest_first.groupby("range").head(top) if name == "kernels" else longest_first.head(top)
    return table


def _to_json(table: pd.DataFrame) -> str:
    import json

    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return json.dumps(rows, indent=1, ensure_ascii=False)


def _print_table(table: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    texts = [name for name in table.columns if name in ("range", "kernel", "kind", "captured")]
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in table.columns:
        is_text = column in texts
        shown.add_column(column, justify="left" if is_text else "right", no_wrap=True, overflow="ellipsis")
    for row in table.astype(object).where(table.notna(), None).itertuples(index=False):
        shown.add_row(*("–" if value is None else escape(_cell(value)) for value in row))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, highlight=False).print(shown)


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value if len(value) <= _NAME_WIDTH else f"{value[: _NAME_WIDTH - 1]}…"
    return f"{value:,.15g}" if isinstance(value, float) else f"{value:,}"


def _notes(projection: Projection) -> Iterator[str]:
    """What a reader of the figures has to know."""
    if projection.mode == "graph":
        yield (
            "CUDA graphs were traced as a whole: of their kernels nothing is known, and a graph counts as busy from "
            "start to end; record with --cuda-graph-trace=node to see inside"
        )
    if projection.unattributed_share >= 0.01:
        yield f"{projection.unattributed_share:.0%} of the GPU time was launched outside of all ranges"
    if len(projection.open_ranges):
        chain = " > ".join(projection.open_ranges["range"])
        yield f"still open when recording ended, as after a crash, and not timed: {chain}"
    queued = int(projection.instances["queued_behind"].sum())
    if queued:
        yield f"{queued} range instances were queued behind an earlier one; synchronise first to time their launch"
