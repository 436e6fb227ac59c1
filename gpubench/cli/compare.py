"""`gpubench compare A B`: cell by cell, with intervals; exit 1 on a regression."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli.console import open_console, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gpubench.report.compare_text import ShownComparison, ShownRow

__all__ = ["compare", "parse_threshold"]

REGRESSION = 1
SHOWN_ROWS = 20
"""Per table."""
WIDE = 100
_STYLES = {"slower": "red", "newly failing": "bold red", "faster": "green", "newly ok": "green", "unclear": "yellow"}
_PERCENT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="Folder or id of the run to compare with.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Folder or id of the run that is judged.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            help="What to compare; may be repeated, or a list with commas.",
            show_default="step_time and kernel_sum, of served requests ttft and tpot, where both runs have them",
        ),
    ] = None,
    threshold: Annotated[
        str, typer.Option("--threshold", metavar="PERCENT", help="Changes up to this are the same: 2%, or 0.02.")
    ] = "2%",
    formats: Annotated[
        str, typer.Option("--format", metavar="md,html,json", help="Files to write beside the table.")
    ] = "",
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs are kept.")] = Path("results"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write.", show_default="B's folder")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of other GPUs or timers.")] = False,
) -> None:
    """Compare run B with run A, cell by cell: faster, slower, same, unclear, missing. Exit 1 on a regression."""
    bound = parse_threshold(threshold)
    from gpubench.analysis.compare import compare_runs
    from gpubench.analysis.run import load_run
    from gpubench.report.compare_text import show_comparison
    from gpubench.report.write import write_comparison
    from gpubench.store import find_run

    paths = [find_run(run, results) for run in (before, after)]
    wanted = _split([formats])
    one, other = map(load_run, paths)
    found = compare_runs(one, other, metrics=_split(metrics or []), threshold=bound, force=force)
    files = write_comparison(found, wanted, out or paths[1])
    _print(f"{found.before.run_id} → {found.after.run_id}", show_comparison(found))
    for file in files:
        typer.echo(file)
    if found.has_regression:
        raise typer.Exit(REGRESSION)


def _split(texts: list[str]) -> list[str]:
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def parse_threshold(text: str) -> float:
    """`2%` and `0.02` alike; a bare number from 1 on could mean either and is refused."""
    from gpubench.errors import UsageError

    percent = _PERCENT.fullmatch(text)
    try:
        value = float(percent[1]) / 100 if percent else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"--threshold {text}: want a share under 100%, as in 2% or 0.02")
    return value


def _print(runs: str, shown: ShownComparison) -> None:
    from rich.markup import escape

    console = open_console()
    console.print(f"[bold]{escape(plain(runs))}[/]")
    console.print(escape(plain(shown.headline)))
    for tally in shown.tallies:
        console.print(f"  {escape(plain(tally))}")
    if shown.differences:
        console.print(f"[dim]differs: {escape(plain('; '.join(shown.differences)))}[/]")
    for note in shown.notes:
        console.print(f"[yellow]note[/] {escape(plain(note))}")
    _print_cells(console, shown)
    if shown.movements:
        console.print()
        console.print(_frontiers(shown))
    console.print(f"[dim]{escape(shown.rule)}[/]")


def _print_cells(console: Console, shown: ShownComparison) -> None:
    """What isn't the same: first the cells that were lost or found, then metric by metric."""
    told = [row for row in shown.rows if row.verdict != "same"]
    for metric in dict.fromkeys(["", *(row.metric for row in told)]):
        rows = [row for row in told if row.metric == metric]
        if not rows:
            continue
        console.print()
        console.print(_cells(shown.axes, rows[:SHOWN_ROWS], console.width))
        if len(rows) > SHOWN_ROWS:
            console.print(f"[dim]… and {len(rows) - SHOWN_ROWS:,} more with --format md, html or json[/]")


def _cells(axes: tuple[str, ...], rows: list[ShownRow], width: int) -> Table:
    """The lines of one metric, or of cells as a whole, which have a reason instead of a change."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from gpubench.report.compare_text import CERTAIN

    metric = rows[0].metric
    between = " · " if width >= WIDE else " "
    table = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 2 if width >= WIDE else 1, 0, 0)
    )
    table.add_column(escape(plain(metric)) or "cells", no_wrap=True)
    table.add_column(escape(plain(between.join(axes))), overflow="fold")
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
    if metric:
        table.add_column("change", justify="right", no_wrap=True)
        table.add_column(f"{CERTAIN} interval", no_wrap=True)
    if any(row.note for row in rows):
        table.add_column("why", ratio=1, overflow="fold")
    for row in rows:
        texts = [between.join(row.axes) or row.cell_id, row.before, row.after]
        texts += [row.change, row.interval] if metric else []
        texts += [row.note] if any(other.note for other in rows) else []
        style = _STYLES.get(str(row.verdict), "dim")
        table.add_row(f"[{style}]{row.glyph} {row.verdict}[/]", *(escape(plain(text)) for text in texts))
    return table


def _frontiers(shown: ShownComparison) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("frontier", overflow="fold")
    table.add_column("area", overflow="fold")
    table.add_column(escape(plain(shown.frontier)), overflow="fold")
    for found in shown.movements:
        style = _STYLES.get(str(found.verdict), "dim")
        levels = escape(plain("\n".join(found.levels))) or "–"
        table.add_row(escape(plain(found.group)) or "all", f"[{style}]{found.glyph}[/] {found.area}", levels)
    return table
