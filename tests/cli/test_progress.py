"""What a running sweep prints, for machines and for people."""

from __future__ import annotations

import io
import json

import pytest
from made_failures import failed
from rich.console import Console

from gpubench.cli.progress import JsonLines, LiveBar, PlainLines, choose_renderer
from gpubench.records import Outcome, Pass
from gpubench.run.events import CellRecorded, PassStarted


def test_json_calls_the_pass_what_the_records_on_disk_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines() as lines:
        lines.show(PassStarted(Pass.PROFILE, 3, "nsys", is_again=True))
        lines.show(CellRecorded(failed(None, Outcome.ERROR), is_last=True))
    started, recorded = map(json.loads, capsys.readouterr().out.splitlines())
    assert started == {"event": "pass_started", "pass": "profile", "todo": 3, "profiler": "nsys", "is_again": True}
    assert recorded["record"]["pass"] == "timing"
    assert "pass_" not in recorded["record"]


def test_what_a_cell_said_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    with PlainLines(Console(file=out)) as lines:
        lines.show(CellRecorded(failed(None, reason="ValueError: \x1b[2Jgone\x07 [red]and red[/]"), is_last=True))
    assert "ValueError: \ufffd[2Jgone\ufffd [red]and red[/]" in out.getvalue()


@pytest.mark.parametrize(("terminal", "renderer"), [("xterm", LiveBar), ("dumb", PlainLines)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal: str, renderer: type) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": terminal})
    assert isinstance(choose_renderer(console, quiet=False, as_json=False), renderer)
