"""`gpubench reproduce RUN CELL`: one cell of a run again, alone in a fresh worker, and whether it ends as it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli.console import open_console, plain

if TYPE_CHECKING:
    from rich.console import Console

    from gpubench.analysis.merge import CellResult
    from gpubench.analysis.run import Run

__all__ = ["find_cell", "reproduce"]

ANOTHER_END = 1
INTERRUPTED = 130


def reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or id of a run.")],
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, the beginning of one, or its number.")],
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs are kept.")] = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to write.", show_default="the run's folder, reproduced/CELL"),
    ] = None,
) -> None:
    """Run one cell again, alone in a fresh worker, as the run's sweep has it: settings, limits, plugins.

    The run itself stays as it is. Exit codes: 0 the cell ended as in the run, with the same signature if it failed;
    1 it ended otherwise; 2 no such run or cell, or one without an answer yet.
    """
    from gpubench.analysis.run import load_run
    from gpubench.cli.interrupts import stop_on_interrupt
    from gpubench.run.rerun import rerun_request
    from gpubench.run.resume import differences
    from gpubench.run.sweep import run_sweep
    from gpubench.store import find_run

    original = load_run(find_run(run, results))
    before = find_cell(original, cell)
    request = rerun_request(original, before, out)
    console = open_console()
    _say(console, "cell", f"{before.cell.cell_id} of {original.run_id}, alone in a fresh worker")
    with stop_on_interrupt() as stop, console.status("running"):
        *_, ended = run_sweep(request, stop)
    if stop.is_requested:
        raise typer.Exit(INTERRUPTED)
    again = load_run(Path(_path_of(ended)))
    for changed in differences(original.header, again.header):
        _say(console, "changed", f"{changed} since the run")
    raise typer.Exit(_compare(console, before, again))


def _path_of(ended: object) -> str:
    from gpubench.run.events import SweepEnded

    assert isinstance(ended, SweepEnded), "a sweep's last event says that it has ended"
    return ended.path


def find_cell(run: Run, asked: str) -> CellResult:
    """The cell of that id, number or unique beginning of an id, which must have an answer to compare with."""
    from difflib import get_close_matches

    from gpubench.errors import UsageError

    by_id = {result.cell.cell_id: result for result in run.cells}
    found = by_id.get(asked)
    if found is None and asked.isdecimal():
        found = next((result for result in run.cells if result.cell.index == int(asked)), None)
    if found is None:
        begun = [cell_id for cell_id in by_id if asked and cell_id.startswith(asked)]
        if len(begun) > 1:
            raise UsageError(f"{run.run_id}: {asked!r} begins {len(begun):,} cells' ids: {_some(begun)}")
        found = by_id[begun[0]] if begun else None
    if found is None:
        close = get_close_matches(asked, by_id, n=1)
        hint = f"did you mean {close[0]}?" if close else f"its {len(by_id):,} cells: {_some(list(by_id))}"
        raise UsageError(f"{run.run_id}: no cell {asked!r}; {hint}")
    if found.outcome is None:
        command = f"gpubench sweep {run.header.sweep_file} --resume"
        raise UsageError(
            f"{run.run_id}: {found.cell.cell_id} has not been run, so there is no end to reproduce: {command}"
        )
    return found


def _some(cell_ids: Sequence[str]) -> str:
    return ", ".join(cell_ids[:5]) + (" …" if len(cell_ids) > 5 else "")


def _compare(console: Console, before: CellResult, again: Run) -> int:
    """Say how the cell ended then and now; gives back the exit code."""
    from gpubench.triage import signature_of

    (after,) = again.cells
    then, now = before.decisive, after.decisive
    assert then is not None, "it was looked for"
    assert now is not None, "a sweep that has ended has a record of each cell"
    _tell(console, "then", before)
    _tell(console, "now", after)
    if not (then.outcome.is_failure and now.outcome.is_failure):
        is_same = then.outcome is now.outcome
        verdict = "the same" if is_same else f"another end: {_explain(then.outcome.is_failure)}"
    else:
        old, new = signature_of(then), signature_of(now)
        is_same = old.is_like(new)
        verdict = "the same signature" if is_same else f"another signature: {old.key}  →  {new.key}"
    _say(console, "so", verdict)
    _say(console, "records", str(again.path))
    return 0 if is_same else ANOTHER_END


def _explain(has_failed: bool) -> str:
    if has_failed:
        return "alone it did not fail; it may need the cells that ran before it in its worker, or fail by chance"
    return "what did not fail in the run fails now"


def _tell(console: Console, when: str, result: CellResult) -> None:
    from gpubench.cli.figures import headline
    from gpubench.records import Outcome, Pass
    from gpubench.triage import signature_of

    record = result.decisive
    assert record is not None, "it has an outcome"
    if record.outcome.is_failure:
        signature = signature_of(record)
        _say(console, when, f"{record.outcome}  {signature.id}  {signature.title}")
        _say(console, "", record.reason)
    else:
        is_ok = record.outcome is Outcome.OK
        _say(console, when, f"{record.outcome}  {headline(result.of(Pass.TIMING)) if is_ok else record.reason}")


def _say(console: Console, name: str, text: str) -> None:
    from rich.markup import escape

    console.print(f"  [dim]{name:<8}[/]{escape(plain(text))}", soft_wrap=True)
