"""What the head of a page says that its cells are."""

from __future__ import annotations

from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.report.content import read_content
from gpubench.report.html import render_html
from gpubench.report.labels import label_facts
from gpubench.report.markdown import markdown_report

TIMES = {"step_time": [[1.0] * 6]}
RANK = "one rank of 16, no communication"


def content_of(tmp_path, cells):
    return read_content([load_run(make_run(tmp_path, cells))])


def test_labels_say_of_how_many_cells_they_are_and_leave_out_axes_and_what_is_of_single_cells(tmp_path):
    cells = [
        MadeCell({"model": "a", "n": n}, TIMES, details={"model": "a", "layers": "2 of 2", "lengths": f"{n} to {n}"})
        for n in range(4)
    ]
    cells.append(MadeCell({"model": "b", "n": 4}, TIMES, details={"layers": "2 of 2", "rank": RANK}))
    cells.append(MadeCell({"model": "b", "n": 5}, outcome=None))
    facts = label_facts(content_of(tmp_path, cells))
    assert facts == {"layers": ["2 of 2"], "rank": [f"{RANK} (1 of 5 cells)"]}


def test_a_rank_on_its_own_is_called_one_where_its_figures_are_read(tmp_path):
    content = content_of(tmp_path, [MadeCell({"n": 1}, TIMES, details={"rank": RANK})])
    page, text = render_html(content), markdown_report(content)
    assert f"<dt>Rank</dt><dd>{RANK}</dd>" in page.replace('<dd dir="auto">', "<dd>")
    assert f"rank: {RANK}" in text


def test_groups_of_a_truth_say_of_what(tmp_path):
    cells = [MadeCell({"gvr": gvr, "backend": "graph"}, TIMES) for gvr in (True, False)]
    run = load_run(make_run(tmp_path, cells))
    frame = run.frontier("step_time", "step_time", group=["backend", "gvr"])
    assert set(frame["group"]) == {"graph · gvr=true", "graph · gvr=false"}
