"""`gpubench sweep --dry-run`: the cells as a table, and how long they may take."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from gpubench.cli.console import count_cells
from gpubench.run.kin import describe_order
from gpubench.run.sweep import SweepRequest
from gpubench.scalars import format_scalar

__all__ = ["show_plan"]

MOST_ROWS = 200
_GAP = 3
"""Between columns."""
_SHORTEST_ID, _SHORTEST_NAME = len("cell_000…"), len("co…")


def show_plan(console: Console, request: SweepRequest) -> None:
    """Print every cell (the first ones of a huge grid) and an estimate."""
    names = list(dict.fromkeys(name for cell in request.cells for name in cell.axes))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    cells = request.cells[:MOST_ROWS]
    rows = [[format_scalar(cell.axes[name]) if name in cell.axes else "" for name in names] for cell in cells]
    # On a narrow terminal names are cut, never values: those say what a cell is, and its number is enough to name it.
    widths = [max(_SHORTEST_NAME, *map(cell_len, values)) for values in zip(*rows, strict=True)]
    room = console.width - _GAP * (len(names) + 1)
    is_narrow = max(len(cell.cell_id) for cell in cells) + sum(map(max, widths, map(len, names))) > room
    left = max(_SHORTEST_ID, room - sum(widths))
    table.add_column("cell", no_wrap=True, max_width=left if is_narrow else None)
    for name, width in zip(names, widths, strict=True):
        justify: JustifyMethod = "left" if name == "backend" else "right"
        table.add_column(name, justify=justify, no_wrap=True, width=width if is_narrow else None)
    for cell, values in zip(cells, rows, strict=True):
        table.add_row(escape(cell.cell_id), *map(escape, values))
    console.print(table)
    if len(request.cells) > MOST_ROWS:
        console.print(f"… and {len(request.cells) - MOST_ROWS} more")
    order = describe_order(request.workload, request.cells, request.sweep.spec.order)
    if order:
        console.print(f"[dim]{escape(order)}[/]", soft_wrap=True)
    for warning in request.warnings:
        console.print(f"[yellow]warning: {escape(warning)}[/]", soft_wrap=True)
    console.print(_estimate(request))


def _estimate(request: SweepRequest) -> str:
    measure = request.sweep.spec.measure
    lanes = max(1, len(request.gpus))
    per_trial = measure.warmup_time_s + measure.max_time_s
    at_most = len(request.cells) * measure.trials * per_trial / lanes
    device = ", ".join(gpu.name for gpu in request.gpus) or "the CPU"
    device += f" (overlay {request.overlay})" if request.overlay else ""
    if request.workload.measures_itself:
        return f"{count_cells(len(request.cells))} on {escape(device)}: each measures itself, for as long as that takes"
    return (
        f"{count_cells(len(request.cells))} on {escape(device)}: at most {_duration(at_most)} of measuring "
        f"({measure.trials} × up to {per_trial:g} s a cell), apart from starting, set-up and checks"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
