"""`gpubench triage --escalate`: the ladder on the terminal, a line per answer, on standard error."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from gpubench.cli.console import open_console, plain

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType
    from rich.table import Table

    from gpubench.analysis.merge import CellResult
    from gpubench.analysis.run import Run
    from gpubench.run.ladder import CellBegun, LadderEvent, RungAnswered
    from gpubench.triage import Triage

__all__ = ["choose_cells", "escalate"]

INTERRUPTED = 130

_GOOD = ("passes", "finds nothing")
_SILENT = ("not applicable", "no answer")


def choose_cells(triage: Triage, *, cell: str, every: bool) -> list[CellResult]:
    """A cell per signature; or every failed one; or the one named. UsageError if that one did not fail."""
    from gpubench.cli.reproduce import find_cell
    from gpubench.errors import UsageError

    if not cell:
        return [result for row in triage.rows for result in (row.cells if every else row.cells[:1])]
    found = find_cell(triage.run, cell)
    if found.outcome is None or not found.outcome.is_failure:
        raise UsageError(
            f"{triage.run.run_id}: {found.cell.cell_id} is {found.outcome}: only cells that failed are escalated"
        )
    return [found]


def escalate(run: Run, cells: list[CellResult]) -> None:
    """Climb, and show it. Exits with 130 when the user ended it; what was answered before is kept."""
    from rich.live import Live

    from gpubench.cli.interrupts import stop_on_interrupt
    from gpubench.run.ladder import climb

    console = open_console(stderr=True)
    if not cells:
        console.print("nothing to escalate: no cell failed")
        return
    status = _Status()
    with stop_on_interrupt() as stop, Live(status, console=console, refresh_per_second=8, transient=True) as live:
        for event in climb(run, cells, stop):
            _show(live.console, status, event, run.path, len(cells))
            if stop.is_requested and not stop.is_told:
                stop.is_told = True
                live.console.print("[yellow]stopping after this rung; Ctrl-C again stops now[/]")
    if stop.is_requested:
        console.print("[yellow]interrupted[/]; the answers so far are kept, and the same command adds to them")
        raise typer.Exit(INTERRUPTED)


class _Status:
    """The line at the bottom: what is being run and for how long."""

    def __init__(self) -> None:
        from rich.spinner import Spinner

        self._spinner = Spinner("dots")
        self.rung, self.stage = "", ""
        self.unfit: dict[str, list[str]] = {}
        """Rungs of the cell that don't apply, by the reason."""
        self.cells = 0
        self.began = time.monotonic()

    def begin(self, rung: str) -> None:
        self.rung, self.stage, self.began = rung, "starting a worker", time.monotonic()

    def __rich__(self) -> RenderableType:
        from rich.markup import escape
        from rich.text import Text

        if not self.rung:
            return Text()
        took = time.monotonic() - self.began
        self._spinner.update(text=Text.from_markup(f"{self.rung:<12} [dim]{escape(self.stage)}  {took:.0f} s[/]"))
        return self._spinner


def _show(console: Console, status: _Status, event: LadderEvent, run: Path, num_cells: int) -> None:
    from gpubench.run.ladder import CellBegun, CellClimbed, RungAnswered, RungBegun, RungWorks

    match event:
        case CellBegun():
            status.cells += 1
            _show_cell(console, event, status.cells, num_cells)
        case RungBegun():
            status.begin(event.rung)
        case RungWorks():
            status.stage = f"{event.cell_id} {event.stage}"
        case RungAnswered() if event.verdict.verdict == "not applicable":
            status.unfit.setdefault(event.verdict.detail, []).append(event.verdict.rung)
        case RungAnswered():
            status.rung = ""
            _show_answer(console, event)
        case CellClimbed():
            for reason, rungs in status.unfit.items():
                console.print(_line("not asked", "", "", f"{', '.join(rungs)}: {reason}"))
            status.unfit.clear()
            _show_diagnosis(console, run, event.cell_id)


def _show_cell(console: Console, event: CellBegun, number: int, of: int) -> None:
    from rich.markup import escape

    title = escape(plain(event.signature.title))
    count = f"[dim]{number}/{of}[/] " if of > 1 else ""
    console.print(f"\n{count}[bold red]✕[/] [bold]{event.signature.id}[/]  [bold]{title}[/]", soft_wrap=True)
    console.print(f"  [dim]{escape(plain(event.cell_id))}, run again, one thing changed at a time[/]", soft_wrap=True)


def _show_answer(console: Console, event: RungAnswered) -> None:
    verdict = event.verdict
    took = f"{event.took_s:.1f} s" if event.took_s else ""
    console.print(_line(verdict.rung, verdict.verdict, took, verdict.detail))


def _line(rung: str, answer: str, took: str, detail: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    style = "dim" if answer in _SILENT else "green" if answer in _GOOD else "yellow"
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=14, no_wrap=True)
    grid.add_column(width=18, no_wrap=True)
    grid.add_column(width=7, justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    told = Text(" ".join(plain(detail).split()), "dim")
    grid.add_row(f"  {rung}", Text(answer, style), Text(took, "dim"), told)
    return grid


def _show_diagnosis(console: Console, run: Path, cell_id: str) -> None:
    """What the answers about a cell's signature come to, all told."""
    from rich.markup import escape

    from gpubench.analysis.run import load_run
    from gpubench.triage import triage_run

    row = next(row for row in triage_run(load_run(run)).rows if cell_id in row.cell_ids)
    if row.diagnosis is not None:
        console.print(f"  [bold]→ {escape(' '.join(plain(row.diagnosis.text).split()))}[/]", soft_wrap=True)
