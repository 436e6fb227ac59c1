"""Backends beside the baseline: the page and the Markdown tell the same."""

from __future__ import annotations

import re

import pytest
from made_runs import MadeCell, make_large_run, make_run

from gpubench.analysis.run import load_run
from gpubench.errors import UsageError
from gpubench.records import Outcome
from gpubench.report.comparison import compare
from gpubench.report.content import Content, read_content
from gpubench.report.html import MOST_COMPARED, render_html
from gpubench.report.markdown import markdown_report


def steady(seconds: float) -> dict[str, list[list[float]]]:
    return {"step_time": [[seconds * (1 + 0.001 * n) for n in range(10)]]}


def content_of(tmp_path, cells) -> Content:
    return read_content([load_run(make_run(tmp_path, cells))])


def pair(batch: int, torch: float, triton: float, **kind) -> list[MadeCell]:
    axes = {"batch": batch}
    return [
        MadeCell({"backend": "torch", **axes}, steady(torch)),
        MadeCell({"backend": "triton", **axes}, steady(triton), **kind),
    ]


def rows_of(page: str) -> list[list[str]]:
    """The texts of the page's table of speed-ups."""
    body = page.partition('id="comparison"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r"<td.*?>(.*?)</td>", row) for row in body.split("<tr>")[1:]]
    return [[re.sub(r"<.*?>", "", cell) for cell in row] for row in cells]


def test_the_page_has_the_markdowns_rows_and_tallies(tmp_path):
    cells = [*pair(1, 2e-5, 1e-5), *pair(2, 1e-5, 4e-5), *pair(3, 1e-5, 1e-5), *pair(4, 1e-5, 1, outcome=Outcome.OOM)]
    content = content_of(tmp_path, cells)
    page, markdown = render_html(content), markdown_report(content)
    assert [row[-1][0] for row in rows_of(page)] == ["▲", "▼", "≈", "–"]
    assert rows_of(page)[0] == ["1", "triton", "20.1 µs", "10.0 µs", "▲ 2.00× (1.99–2.01)"]
    for row in rows_of(page):
        assert f"| {' | '.join(row)} |" in markdown
    (tally,) = compare(content).tallies()
    assert tally.words in page
    assert tally.words in markdown


def test_an_option_of_one_backend_is_held_against_the_baselines_one_cell_of_that_shape(tmp_path):
    cells = [
        *[MadeCell({"backend": "torch", "batch": batch}, steady(batch * 1e-5)) for batch in (1, 8)],
        *[
            MadeCell({"backend": "triton", "batch": batch, "block_v": block_v}, steady(batch * 1e-5 / speedup))
            for block_v, speedup in ((16, 2), (32, 4))
            for batch in (1, 8)
        ],
    ]
    found = compare(content_of(tmp_path, cells))
    assert found.shape_axes == ("batch", "block_v")
    speedups = {row.shape: round(row.versus[0].speedup.value, 2) for row in found.rows}
    assert speedups == {("1", "16"): 2, ("1", "32"): 4, ("8", "16"): 2, ("8", "32"): 4}


@pytest.mark.parametrize(
    "cells",
    [
        [MadeCell({"backend": "torch"}, steady(1e-5))],
        [MadeCell({"backend": backend}, {"goodput": [[1.0] * 6]}) for backend in ("torch", "triton")],
        [],
    ],
    ids=["one backend", "no times", "no cells"],
)
def test_without_two_backends_and_a_time_there_is_no_comparison(tmp_path, cells):
    content = content_of(tmp_path, cells)
    assert compare(content) is None
    assert "comparison-section" not in render_html(content)


def test_a_page_cuts_a_long_comparison_and_says_so(tmp_path):
    cells = [
        MadeCell({"backend": backend, "batch": batch}, {"step_time": [[1e-5]]})
        for batch in range(MOST_COMPARED + 1)
        for backend in ("torch", "triton")
    ]
    page = render_html(read_content([load_run(make_large_run(tmp_path, cells))]))
    assert len(rows_of(page)) == MOST_COMPARED
    assert "These are the first 1,000 of\n    1,001 rows." in page


def test_cells_are_held_against_the_value_of_an_axis_that_a_sweep_names_and_one_without_the_axis_is_left_out(tmp_path):
    cells = [
        MadeCell({"backend": "graph", "batch": batch, "streams": streams}, steady(batch * 1e-5 / streams))
        for batch in (1, 8)
        for streams in (1, 2)
    ]
    cells += [MadeCell({"backend": "graph", "batch": 16, "streams": 2}, steady(1e-5))]
    cells += [MadeCell({"backend": "eager", "batch": 1}, steady(1e-3))]
    runs = [load_run(make_run(tmp_path, cells, sweep={"against": {"streams": 1}}))]
    content = read_content(runs)
    page, markdown = render_html(content), markdown_report(content)
    assert rows_of(page)[0] == ["graph", "1", "2", "10.0 µs", "5.02 µs", "▲ 2.00× (1.99–2.01)"]
    assert [row[:4] for row in rows_of(page)[1:]] == [["graph", "8", "2", "80.4 µs"], ["graph", "16", "2", "–"]]
    for row in rows_of(page):
        assert f"| {' | '.join(row)} |" in markdown
    assert "### Against streams=1: step time" in markdown
    (tally,) = compare(content).tallies()
    assert (tally.name, tally.words[:11]) == ("streams=2", "faster in 2")
    assert compare(read_content(runs, {"batch": 8})).baseline == "batch=8"


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ({"stream": 1}, "--against: no axis 'stream' in these runs; known: backend, batch, streams"),
        ({"streams": 3}, "--against: no cell has streams=3; streams is 1, 2"),
    ],
)
def test_what_no_cell_has_is_nothing_to_hold_others_against(tmp_path, against, told):
    cells = [MadeCell({"backend": "graph", "batch": 1, "streams": streams}, steady(1e-5)) for streams in (1, 2)]
    with pytest.raises(UsageError, match=re.escape(told)):
        read_content([load_run(make_run(tmp_path, cells))], against)
