"""`gpubench doctor`: what this machine can measure, what is missing, and how to get it."""

from __future__ import annotations

from typing import Annotated

import typer

from gpubench.cli.console import open_console

__all__ = ["doctor"]

MARKS = {"good": "[green]✓[/]", "missing": "[yellow]–[/]", "bad": "[red]✗[/]"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what this machine can measure, and how to get what is missing."""
    import json
    from dataclasses import asdict

    from rich.markup import escape
    from rich.table import Table

    from gpubench.run.examine import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
        return
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        told = escape(finding.told) + (f"\n[dim]→ {escape(finding.remedy)}[/]" if finding.remedy else "")
        table.add_row(MARKS[finding.state], escape(finding.subject), told)
    open_console().print(table)
