"""What a running sweep prints for machines."""

from __future__ import annotations

import json

import pytest
from made_failures import failed

from gpubench.cli.progress import JsonLines
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
