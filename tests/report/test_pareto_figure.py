"""The plot as a figure."""

from __future__ import annotations

from made_runs import MadeCell, make_run

from gpubench.analysis.run import load_run
from gpubench.records import Outcome
from gpubench.report.pareto import pareto_figure

HOSTILE = "<b>&bold</b>"


def figure_of(tmp_path, cells, **options):
    run = load_run(make_run(tmp_path, cells))
    return pareto_figure(run.wide(), run.metrics(), **options)


def cell(backend: str, batch: int, user: float, gpu: float, **kind) -> MadeCell:
    axes = {"backend": backend, "batch": batch}
    return MadeCell(axes, {"tok_s_user": [[user] * 8], "tok_s_gpu": [[gpu] * 8]}, **kind)


CELLS = [
    cell("torch", 1, 10, 10),
    cell("torch", 2, 5, 20),
    cell("torch", 4, 4, 4),
    cell("triton", 1, 11, 11),
    cell("triton", 2, 6, 22, outcome=Outcome.OOM, reason=HOSTILE),
]


def by_mode(figure, mode):
    return [trace for trace in figure.data if trace.mode.startswith(mode)]


def test_each_group_has_its_points_and_a_line_along_its_frontier(tmp_path):
    figure = figure_of(tmp_path, CELLS)
    assert [list(trace.x) for trace in by_mode(figure, "lines")] == [[5, 10], [11]]
    torch, triton, _ = by_mode(figure, "markers")
    assert (torch.name, list(torch.x)) == ("torch", [10, 5, 4])
    assert (triton.name, list(triton.y)) == ("triton", [11])
    assert torch.marker.color != triton.marker.color
    assert torch.marker.symbol != triton.marker.symbol
    assert figure.layout.annotations[0].text.count("higher is better, timed by cuda_event") == 2


def test_cells_that_are_not_ok_lie_in_a_strip_of_their_own(tmp_path):
    strip = figure_of(tmp_path, CELLS).data[-1]
    assert (strip.yaxis, list(strip.y), list(strip.x)) == ("y2", ["oom"], [4])
    assert "&lt;b&gt;&amp;bold&lt;/b&gt;" in strip.hovertext[0]


def test_labels_stand_at_the_frontier_only(tmp_path):
    torch = by_mode(figure_of(tmp_path, CELLS, label="batch"), "markers")[0]
    assert list(torch.text) == ["1", "2", ""]


def test_hovering_tells_every_axis_and_figure(tmp_path):
    text = by_mode(figure_of(tmp_path, CELLS), "markers")[0].hovertext[0]
    for part in ("cell_000", "backend: torch", "batch: 1", "tok_s_user: 10.0 tok/s"):
        assert part in text


def test_hovering_tells_figures_in_the_units_that_the_run_has_them_in(tmp_path):
    waits = MadeCell({"backend": "torch"}, {"tok_s_user": [[10.0]], "tok_s_gpu": [[10.0]], "queue_time": [[0.25]]})
    assert "queue_time: 250 ms" in by_mode(figure_of(tmp_path, [waits]), "markers")[0].hovertext[0]


def test_hovering_leaves_out_what_is_no_figure_of_its_own(tmp_path):
    profiled = cell("torch", 1, 10, 10, profile={"busy": [1e-6] * 6, "profiled_step": [1e-3] * 6})
    text = by_mode(figure_of(tmp_path, [profiled]), "markers")[0].hovertext[0]
    assert "busy: 1.00 µs" in text
    assert "profiled_step" not in text


def test_values_that_span_much_are_on_a_log_scale(tmp_path):
    wide = figure_of(tmp_path / "a", [cell("torch", 1, 1, 1), cell("torch", 2, 100, 2)])
    assert (wide.layout.xaxis.type, wide.layout.yaxis.type) == ("log", "linear")


def test_without_ok_cells_the_strip_is_all_there_is(tmp_path):
    dead = [cell("torch", 1, 1, 1), cell("torch", 2, 1, 1, outcome=Outcome.CRASH)]
    run = load_run(make_run(tmp_path, dead))
    figure = pareto_figure(run.wide().query("outcome != 'ok'"), run.metrics())
    assert [trace.yaxis for trace in figure.data] == ["y2"]
