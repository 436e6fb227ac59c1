"""`gpubench triage [RUN]`: the cells that failed, told apart, with what the cells of a signature have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gpubench.cli.console import open_console, plain
from gpubench.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gpubench.report.triage import ShownRow, ShownTriage
    from gpubench.triage import Row, Triage

__all__ = ["triage"]

NEW_FOUND = 1
SHOWN_ROWS = 20
SHOWN_LOG_LINES = 5


def triage(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Folder or id of a run; the newest if none.")
    ] = None,
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs are kept.")] = Path("results"),
    format_: Annotated[
        Literal["table", "md", "csv", "json"],
        typer.Option("--format", help="md, csv and json go to stdout, with nothing else."),
    ] = "table",
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="RUN", help="Say which signatures this run didn't have.")
    ] = "",
    fail_on: Annotated[
        Literal["new"] | None,
        typer.Option("--fail-on", help="Exit 1 if there are signatures the baseline didn't have."),
    ] = None,
    is_escalated: Annotated[
        bool,
        typer.Option("--escalate", help="First run a failed cell of each signature again, up the ladder: who did it?"),
    ] = False,
    cell: Annotated[
        str, typer.Option("--cell", metavar="CELL", help="With --escalate: this failed cell alone, by id or number.")
    ] = "",
    is_all: Annotated[bool, typer.Option("--all", help="With --escalate: every failed cell.")] = False,
) -> None:
    """Group a run's failed cells by signature, and say what separates them from the clean ones."""
    if fail_on and not baseline:
        raise UsageError(f"--fail-on {fail_on}: new since which run? name it with --baseline RUN")
    if (cell or is_all) and not is_escalated:
        raise UsageError(f"{'--cell' if cell else '--all'}: which cells to run again, with --escalate")
    if cell and is_all:
        raise UsageError("--cell, --all: one cell, or all that failed?")
    from gpubench.analysis.run import load_run
    from gpubench.report.markdown import triage_markdown
    from gpubench.report.triage import name_run, show, triage_csv, triage_json
    from gpubench.store import find_run
    from gpubench.triage import triage_run

    path = find_run(run, results)
    known = load_run(find_run(baseline, results)) if baseline else None
    if is_escalated:
        from gpubench.cli.escalate import choose_cells, escalate

        original = load_run(path)
        escalate(original, choose_cells(triage_run(original), cell=cell, every=is_all))
    found = triage_run(load_run(path), known)
    name = name_run(path, results)
    if format_ == "table":
        _print(show(found, name, SHOWN_LOG_LINES))
        _say_what_next(found, name)
    else:
        write = {"md": triage_markdown, "csv": triage_csv, "json": triage_json}[format_]
        text = write(found, name)
        typer.echo(text, nl=not text.endswith("\n"))
    if fail_on and found.new:
        raise typer.Exit(NEW_FOUND)


def _line(text: str) -> str:
    return " ".join(plain(text).split())


def _print(shown: ShownTriage) -> None:
    from rich.markup import escape

    console = open_console()
    console.print(f"[bold]{escape(plain(shown.run_id))}[/]  {escape(plain(shown.headline))}", soft_wrap=True)
    for note in shown.notes:
        console.print(f"[yellow]note[/] {escape(plain(note))}", soft_wrap=True)
    if len(shown.rows) > 1:
        console.print(_overview(shown.rows))
    for row in shown.rows[:SHOWN_ROWS]:
        console.print()
        _print_row(console, row)
    if len(shown.rows) > SHOWN_ROWS:
        console.print(f"\n[dim]… and {len(shown.rows) - SHOWN_ROWS:,} more in full with --format md or json[/]")


def _say_what_next(found: Triage, name: str) -> None:
    """How to ask who did it, if something died or answered wrongly, nobody is blamed and nobody was asked."""
    from rich.markup import escape

    from gpubench.records import Outcome
    from gpubench.report.triage import escalate_command

    def is_open(row: Row) -> bool:
        return row.outcomes[0] is not Outcome.ERROR and row.signature.culprit is None and not row.verdicts

    if any(map(is_open, found.rows)):
        open_console().print(f"\n[dim]next[/]  {escape(plain(escalate_command(name)))}", soft_wrap=True)


def _overview(rows: tuple[ShownRow, ...]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("signature", no_wrap=True)
    table.add_column("cells", justify="right", no_wrap=True)
    table.add_column("stage", no_wrap=True)
    table.add_column("what and where", ratio=3, overflow="fold")
    table.add_column("which cells", ratio=4, overflow="fold")
    for row in rows:
        new = " [bold red]new[/]" if row.is_new else ""
        texts = (escape(_line(text)) for text in (row.stage, row.title, row.rule))
        table.add_row(f"{row.id}{new}", f"{row.num_cells:,}", *texts)
    return table


def _print_row(console: Console, row: ShownRow) -> None:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    new = "  [bold red]new[/]" if row.is_new else ""
    console.print(f"[bold red]✕[/] [bold]{row.id}[/]  [bold]{escape(_line(row.title))}[/]{new}")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True, min_width=11)
    grid.add_column(overflow="fold")
    for name, text in _facts(row):
        grid.add_row(f"  {name}", Text(plain(text) if name == "log" else _line(text)))
    console.print(grid)
    # by itself and never broken: it is there to be copied
    console.print(f"  [dim]reproduce[/]  {escape(plain(row.command))}", soft_wrap=True)


def _facts(row: ShownRow) -> list[tuple[str, str]]:
    facts = [
        ("class", f"{row.class_}: {row.meaning}"),
        ("faulting", row.faulting),
        ("culprit", f"{row.culprit}; {row.basis}" if row.basis else row.culprit if row.faulting else ""),
        ("surfaced", row.victim),
        ("stage", row.stage),
        ("reason", row.reason),
        ("within", row.within),
        ("core", row.core),
        ("driver", row.xid),
        ("cells", f"{row.num_cells:,}: {row.cells}"),
        ("seen", row.seen),
        ("rule", row.rule),
        *[("twin", twin) for twin in row.twins],
        *[("verdict", verdict) for verdict in row.verdicts],
        ("diagnosis", row.diagnosis),
        ("log", row.log),
    ]
    return [(name, text) for name, text in facts if text]
