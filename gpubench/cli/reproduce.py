"""`gpubench reproduce RUN CELL`: one cell of a run again, alone in a fresh worker, and whether it ends as it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from gpubench.analysis.merge import CellResult
    from gpubench.analysis.run import Run
    from gpubench.machine import Gpu
    from gpubench.run.sweep import SweepRequest
    from gpubench.sweep import Sweep

__all__ = ["REPRODUCED", "reproduce"]

REPRODUCED = "reproduced"
"""The folder within a run's that holds its reproductions, by cell: each is a small run of its own."""

ANOTHER_END = 1
INTERRUPTED = 130


def reproduce(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or id of a run.")],
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, or its number.")],
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs are kept.")] = Path("results"),
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Where to write.", show_default=f"the run's folder, {REPRODUCED}/CELL"
        ),
    ] = None,
) -> None:
    """Run one cell again, alone in a fresh worker, as the run's sweep has it: settings, limits, plugins.

    The run itself stays as it is. Exit codes: 0 the cell ended as in the run, with the same signature if it failed;
    1 it ended otherwise; 2 no such run or cell, or one without an answer yet.
    """
    from rich.console import Console

    from gpubench.analysis.run import load_run
    from gpubench.cli.interrupts import stop_on_interrupt
    from gpubench.run.resume import differences
    from gpubench.run.sweep import run_sweep
    from gpubench.store import find_run

    original = load_run(find_run(run, results))
    before = _find_cell(original, cell)
    request = _request(original, before, out or original.path / REPRODUCED / before.cell.cell_id)
    console = Console(highlight=False)
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


def _find_cell(run: Run, asked: str) -> CellResult:
    """The cell of that id or number, which must have an answer to compare with."""
    from difflib import get_close_matches

    from gpubench.errors import UsageError

    by_id = {result.cell.cell_id: result for result in run.cells}
    found = by_id.get(asked)
    if found is None and asked.isdecimal():
        found = next((result for result in run.cells if result.cell.index == int(asked)), None)
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


def _request(run: Run, before: CellResult, out: Path) -> SweepRequest:
    """The run's sweep, asked for this cell alone."""
    from gpubench.machine import read_machine
    from gpubench.records import Pass
    from gpubench.run.sweep import SweepRequest

    sweep = _recorded_sweep(run)
    decisive = before.decisive
    assert decisive is not None, "a cell with an outcome has a record"
    return SweepRequest(
        sweep=sweep,
        cells=[before.cell],
        workload=run.header.workload,
        plugin_files=[plugin for plugin in sweep.plugins if plugin.endswith(".py")],
        machine=read_machine(),
        gpus=_choose_gpu(run, decisive.gpu),
        results=out,
        # what died under the profiler dies there again; else the profiled pass would only add to what can differ
        profile=decisive.pass_ is Pass.PROFILE,
    )


def _recorded_sweep(run: Run) -> Sweep:
    from pydantic import ValidationError

    from gpubench.errors import Location, StoreError
    from gpubench.sweep import Sweep, find_plugins
    from gpubench.sweep.document import Document, Node
    from gpubench.sweep.schema import SweepFile

    file = str(run.path / "run.json")
    try:
        spec = SweepFile.model_validate(run.header.sweep)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("sweep", *first["loc"])))
        raise StoreError(f"{file}: {place}: {first['msg']}: this gpubench can't run the sweep as recorded") from None
    find_plugins(spec.plugins, locate=lambda index: Location(file, key=f"sweep.plugins[{index}]"))
    return Sweep(Path(run.header.sweep_file), spec, Document(Node({}, file, None)))


def _choose_gpu(run: Run, recorded: str) -> list[Gpu]:
    """The GPU that the cell ran on, or another of its kind; none if the run was made on a CPU."""
    from gpubench.cli.sweep import choose_gpus
    from gpubench.errors import UsageError
    from gpubench.machine import read_machine

    if not run.header.environment.get("gpus"):
        return []
    machine = read_machine()
    usable = choose_gpus(machine, "")
    if not usable:
        why = machine.gpu_problem or "this torch is a CPU build"
        raise UsageError(f"{run.run_id}: its cells ran on {recorded or 'a GPU'}, and there is none to use here: {why}")
    same = [gpu for gpu in usable if recorded.startswith(f"cuda:{gpu.index} ")]
    return [*same, *usable][:1]


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
        is_same = old.key == new.key
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

    from gpubench.cli.triage import plain

    console.print(f"  [dim]{name:<8}[/]{escape(plain(text))}", soft_wrap=True)
