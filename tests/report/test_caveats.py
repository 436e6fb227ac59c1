"""What a reader must know of a whole run stands at the head of the page and of the Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.records import Outcome
from gpubench.report.content import Content, read_content
from gpubench.report.html import render_html
from gpubench.report.markdown import markdown_report
from gpubench.store import Session, add_session

TIMES = {"step_time": [[1e-5] * 6]}
FORCED = "This run was resumed with --force although these had changed:"


def content_of(*paths: Path) -> Content:
    return read_content([load_run(path) for path in paths])


def force(path: Path, differences: Iterable[str]) -> Path:
    add_session(path, Session("2026-11-21T10:00:00+00:00", {}, {}, list(differences)))
    return path


def test_what_force_overrode_stands_before_the_figures(tmp_path):
    path = make_run(tmp_path, [MadeCell({}, TIMES)])
    for differences in ([], ["driver: 580.65 → 590.10"], ["driver: 580.65 → 590.10", "torch: <2.11> → 2.13"]):
        force(path, differences)
    markdown, page = markdown_report(content_of(path)), render_html(content_of(path))
    assert f"> [!WARNING]\n> {FORCED}\n> - driver: 580.65 → 590.10\n> - torch: &lt;2.11&gt; → 2.13\n" in markdown
    assert f"<strong>Warning</strong> {FORCED}" in page
    assert page.count('<li dir="auto">driver: 580.65 → 590.10</li>') == 1
    assert page.index("torch: &lt;2.11&gt; → 2.13") < page.index('class="facts"')


@pytest.mark.parametrize("render", [markdown_report, render_html])
def test_of_several_runs_the_one_that_was_forced_is_named(tmp_path, render: Callable[[Content], str]):
    paths = [make_run(tmp_path / name, [MadeCell({}, TIMES)], name=name) for name in ("one", "two")]
    force(paths[1], ["driver: 580.65 → 590.10"])
    text = render(content_of(*paths))
    assert text.count(FORCED) == 1
    assert f"two-20261121-093000: {FORCED}" in text


@pytest.mark.parametrize("render", [markdown_report, render_html])
def test_a_last_line_that_was_cut_off_is_told(tmp_path, render: Callable[[Content], str]):
    path = make_run(tmp_path, [MadeCell({"batch": batch}, TIMES) for batch in (1, 2)])
    lines = path / "cells.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])
    text = render(content_of(path))
    assert "The last line of cells.jsonl was cut off" in text
    assert "1 not run" in text


@pytest.mark.parametrize("render", [markdown_report, render_html])
def test_cells_that_are_ok_but_lack_trials_are_named_and_counted(tmp_path, render: Callable[[Content], str]):
    two = {"step_time": [[1e-5] * 6] * 2}
    crashed = MadeCell({"batch": 1}, TIMES, outcome=Outcome.CRASH)
    cells = [MadeCell({"batch": 0}, two), crashed, *(MadeCell({"batch": batch}, TIMES) for batch in range(2, 12))]
    path = make_run(tmp_path, [*cells, MadeCell({"batch": 12}, outcome=None)], sweep={"measure": {"trials": 2}})
    text = render(content_of(path)).replace("\\", "")
    found = re.findall(r"(cell_\d+) has 1 of 2 trials", text)
    assert found == [f"cell_{number:03d}" for number in range(2, 10)]
    assert "and 2 more" in text


@pytest.mark.parametrize("render", [markdown_report, render_html])
def test_a_run_with_nothing_amiss_has_no_such_warning(tmp_path, render: Callable[[Content], str]):
    text = render(content_of(force(make_run(tmp_path, [MadeCell({}, TIMES)], sweep={"measure": {"trials": 1}}), [])))
    assert "[!WARNING]" not in text
    assert "<strong>Warning</strong>" not in text
