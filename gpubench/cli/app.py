"""The Typer application: one command per question a user has."""

from __future__ import annotations

from typing import Annotated

import typer

import gpubench
from gpubench.cli.compare import compare
from gpubench.cli.doctor import doctor
from gpubench.cli.listing import list_workloads
from gpubench.cli.nsys import nsys
from gpubench.cli.report import report
from gpubench.cli.reproduce import reproduce
from gpubench.cli.sweep import sweep
from gpubench.cli.triage import triage

__all__ = ["app"]

EPILOG = (
    "Exit codes: 0 no cell failed · 1 a regression, --fail-on fired, or a reproduction ended otherwise · "
    "2 usage or a bad file · 3 some cells failed · 70 a defect of gpubench · 130 interrupted, resumable · "
    "141 whoever read the output left"
)

app = typer.Typer(
    name="gpubench",
    help="One grid in, the truth about every cell out, also about the ones that died.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gpubench {gpubench.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command()(sweep)
app.command()(report)
app.command()(triage)
app.command()(compare)
app.command()(reproduce)
app.command()(nsys)
app.command("list")(list_workloads)
app.command()(doctor)
