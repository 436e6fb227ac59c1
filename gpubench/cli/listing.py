"""`gpubench list`: what can be swept here, with every axis, its type and its default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli.console import open_console

if TYPE_CHECKING:
    from rich.console import Console

    from gpubench.catalogue import AxisInfo, WorkloadInfo

__all__ = ["list_workloads"]


def list_workloads(
    names: Annotated[list[str] | None, typer.Argument(metavar="[WORKLOAD]…", help="Only these.")] = None,
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", metavar="FILE|MODULE", help="Also what this one registers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the catalogue as JSON.")] = False,
) -> None:
    """Show workloads, backends and axes."""
    from gpubench.catalogue import dump_catalogue
    from gpubench.errors import UsageError
    from gpubench.run.probe import load_catalogue
    from gpubench.sweep import find_plugins
    from gpubench.sweep.problems import unknown

    catalogue = load_catalogue(find_plugins(plugin or []))
    strangers = [name for name in names or [] if name not in catalogue.workloads]
    if strangers:
        raise UsageError(unknown("workload", strangers[0], sorted(catalogue.workloads)))
    if as_json:
        typer.echo(dump_catalogue(catalogue))
        return
    console = open_console()
    for name in names or sorted(catalogue.workloads):
        _show(console, catalogue.workloads[name])


def _show(console: Console, workload: WorkloadInfo) -> None:
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    console.print(f"\n[bold]{escape(workload.name)}[/]  {escape(workload.description.split(chr(10))[0])}")
    table = Table.grid(padding=(0, 3))
    for axis in workload.axes:
        table.add_row(escape(axis.name), escape(_type(axis)), escape(_default(axis)), escape(_scope(axis)))
    if workload.open_axes:
        table.add_row("…", "any", "", "any other name is a placeholder")
    for backend in workload.backends:
        notes = ["baseline"] if backend.is_baseline else []
        notes += [f"needs {', '.join(backend.requires)}"] if backend.requires else []
        table.add_row("[dim]backend[/]", f"[cyan]{escape(backend.name)}[/]", "", escape(", ".join(notes)))
    for metric in workload.metrics:
        better = "higher is better" if metric.higher_is_better else "lower is better"
        table.add_row("[dim]metric[/]", escape(metric.name), escape(metric.unit), better)
    console.print(Padding(table, (0, 2)))


def _type(axis: AxisInfo) -> str:
    kind = " | ".join(str(choice) for choice in axis.choices) or axis.kind
    return f"{kind} | null" if axis.optional else kind


def _default(axis: AxisInfo) -> str:
    return "required" if axis.required else f"= {axis.default}"


def _scope(axis: AxisInfo) -> str:
    return f"of {', '.join(axis.backends)}" if axis.backends else ""
