"""`gpubench report [RUN …]`: the page that leaves the machine, and its tables for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["report"]


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]…", help="Folders or ids of runs; the newest if none.")
    ] = None,
    formats: Annotated[str, typer.Option("--format", metavar="html,md,csv,json", help="What to write.")] = "html",
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Where runs are kept.")] = Path("results"),
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write.", show_default="the run's folder")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="AXIS=VALUE", help="Compare the others with these cells.", show_default="the baseline"
        ),
    ] = None,
) -> None:
    """Write the report of a run; several runs are laid over one another."""
    from gpubench.analysis.run import load_run
    from gpubench.errors import UsageError
    from gpubench.report import write_report
    from gpubench.store import find_run

    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    if not wanted:
        raise UsageError("--format: want at least one of html, md, csv, json")
    paths = [find_run(run, results) for run in runs] if runs else [find_run(None, results)]
    for file in write_report([load_run(path) for path in paths], wanted, out or paths[0], _parse(against)):
        typer.echo(file)


def _parse(against: str | None) -> dict[str, Any] | None:
    from gpubench.errors import UsageError
    from gpubench.sweep.select import parse_value

    if against is None:
        return None
    name, sign, value = against.partition("=")
    if not (name and sign and value):
        raise UsageError(f"--against {against}: want an axis and its value, as --against streams=1")
    try:
        return {name: parse_value(value)}
    except ValueError as error:
        raise UsageError(f"--against {against}: {value!r} is {error}") from None
