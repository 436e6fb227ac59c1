"""What a report shows first, and what it says when that is not there."""

from __future__ import annotations

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.catalogue import MetricInfo
from gpubench.errors import UsageError
from gpubench.records import Outcome
from gpubench.report.content import read_content
from gpubench.report.html import render_html
from gpubench.report.markdown import markdown_report

TIMES = {"step_time": [[1.0] * 6]}
TOKENS = {**TIMES, "tok_s_user": [[1.0] * 6], "tok_s_gpu": [[1.0] * 6]}


def content_of(tmp_path, cells, **sweep):
    return read_content([load_run(make_run(tmp_path, cells, sweep=sweep))])


def shape(number: int, figures, **axes) -> MadeCell:
    return MadeCell({"backend": ["torch", "triton"][number % 2], "dtype": "bf16", "rows": number, **axes}, figures)


def test_the_axes_that_the_sweep_asks_for_are_shown(tmp_path):
    cells = [shape(n, TOKENS) for n in range(3)]
    choice = content_of(tmp_path, cells, pareto={"x": "step_time", "y": "tok_s_gpu", "group": ["dtype"]}).choice
    assert (choice.x, choice.y, choice.group, choice.notes) == ("step_time", "tok_s_gpu", ("dtype",), ())


def test_an_axis_may_be_asked_for_as_x(tmp_path):
    choice = content_of(tmp_path, [shape(n, TOKENS) for n in range(3)], pareto={"x": "rows", "y": "step_time"}).choice
    assert (choice.x, choice.y) == ("rows", "step_time")


def test_a_metric_that_is_asked_for_and_missing_is_told_and_replaced(tmp_path):
    cells = [shape(n, TIMES) for n in range(3)]
    choice = content_of(tmp_path, cells, pareto={"x": "tok_s_user", "y": "step_time", "group": ["model"]}).choice
    assert (choice.x, choice.y, choice.group) == ("rows", "step_time", ())
    assert "pareto.x (tok_s_user), which no cell has" in choice.notes[1]
    assert "groups by model (pareto.group)" in choice.notes[0]


def test_tokens_are_the_main_plot_wherever_they_are_known(tmp_path):
    choice = content_of(tmp_path, [shape(n, TOKENS) for n in range(3)]).choice
    assert (choice.x, choice.y, choice.group) == ("tok_s_user", "tok_s_gpu", ("backend",))


def test_kernels_are_plotted_along_their_longest_axis_of_numbers_the_first_of_equals(tmp_path):
    cells = [MadeCell({"tp": n % 2, "rows": n, "dim": -n, "flag": bool(n)}, TIMES) for n in range(3)]
    choice = content_of(tmp_path, cells).choice
    assert (choice.x, choice.y) == ("rows", "step_time")


def test_without_numbers_along_an_axis_another_metric_or_the_grids_order_is_x(tmp_path):
    named = [MadeCell({"mode": mode}, {**TIMES, "goodput": [[1.0] * 6]}) for mode in "ab"]
    assert content_of(tmp_path, named).choice.x == "goodput"
    bare = [MadeCell({"mode": mode}, TIMES) for mode in "ab"]
    assert content_of(tmp_path, bare).choice.x == "index"


def test_without_any_figure_nothing_is_chosen_for_y(tmp_path):
    content = content_of(tmp_path, [MadeCell({"rows": n}, outcome=Outcome.CRASH) for n in (1, 2)])
    assert (content.choice.x, content.choice.y, content.is_pareto) == ("rows", "", False)


def test_runs_laid_over_one_another_are_grouped_by_run_first(tmp_path):
    runs = [load_run(make_run(tmp_path, [shape(n, TOKENS) for n in range(2)])) for _ in range(2)]
    content = read_content(runs)
    assert content.choice.group == ("run_id", "backend")
    assert content.axes == ["run_id", "backend", "dtype", "rows"]
    assert len(content.wide) == 4
    assert content.outcomes() == {"ok": 4}


def test_runs_laid_over_one_another_say_what_each_is_and_how_it_differs(tmp_path):
    cold = make_run(tmp_path, [shape(0, TOKENS)], name="cold", sweep={"measure": {"l2": "cold"}})
    hot = make_run(tmp_path, [shape(0, TOKENS)], name="hot", sweep={"measure": {"l2": "hot"}})
    for name, old, new in (("run.json", "580.65", "590.10"), ("cells.jsonl", "NVIDIA H200", "NVIDIA B200")):
        (hot / name).write_text((hot / name).read_text().replace(old, new))
    content = read_content([load_run(cold), load_run(hot)])
    first = ("cold-20261121-093000", "mla_decode on NVIDIA H200, 21 November 2026")
    unlike = "unlike the first: the GPU, driver 580.65 → 590.10, measure.l2 cold → hot"
    assert content.run_words() == [
        first,
        ("hot-20261121-093000", f"mla_decode on NVIDIA B200, 21 November 2026; {unlike}"),
    ]
    assert unlike in render_html(content)
    assert unlike in markdown_report(content)
    assert read_content([load_run(cold)]).run_words() == []


def test_a_definition_that_is_a_sentence_ends_once(tmp_path):
    rows = MetricInfo("rows_per_s", "1/s", True, "Rows per second.")
    run = load_run(make_run(tmp_path, [shape(0, {"rows_per_s": [[1.0] * 6]})], metrics=[rows]))
    assert read_content([run]).series["rows_per_s"].formula == "Rows per second"


def test_a_run_given_twice_or_none_at_all_is_an_error(tmp_path):
    run = load_run(make_run(tmp_path, [shape(0, TIMES)]))
    with pytest.raises(UsageError, match="given twice"):
        read_content([run, run])
    with pytest.raises(UsageError, match="at least one run"):
        read_content([])


def test_metrics_named_like_axes_or_columns_are_kept_apart_from_them(tmp_path):
    figures = {**TIMES, "rows": [[7.0] * 6], "index": [[8.0] * 6], "p99@5": [[9.0] * 6]}
    content = content_of(tmp_path, [shape(n, figures) for n in range(2)])
    assert content.wide["rows"].tolist() == [7.0, 7.0]
    assert content.wide["rows_axis"].tolist() == [0, 1]
    assert content.wide["index"].tolist() == [0, 1]
    assert content.wide["index_metric"].tolist() == [8.0, 8.0]
    assert {"step_time", "rows", "index_metric", "p99_at_5"} == set(content.series)
    assert content.series["p99_at_5"].label == "p99@5"
