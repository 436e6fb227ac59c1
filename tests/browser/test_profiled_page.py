"""What the page shows of a profiled pass: where the time goes, the roofline, and under what cells were measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.metrics import format_value
from gpubench.analysis.run import Run, load_run
from gpubench.records import Ceilings, KernelShare, Outcome
from gpubench.report import write_report

pytestmark = pytest.mark.browser

CEILINGS = Ceilings(copy_bytes_per_s=4e12, matmul_flop_per_s=800e12)
CLOCKS = {
    "sm_hz": [1410e6, 1980e6],
    "memory_hz": [3201e6, 3201e6],
    "temperature_c": [35, 42],
    "throttled_by": ["power cap"],
    "throttled_samples": [[0, 3]],
}


def steady(seconds: float) -> list[float]:
    return [seconds * (1 + 0.001 * n) for n in range(8)]


def profiled(backend: str, batch: int, step: float, busy: float, **kind) -> MadeCell:
    """A cell that is busy with attention for half of its busy time, with mlp for a third, and else with neither."""
    profile = {
        "kernel_sum": [busy] * 8,
        "busy": [busy] * 8,
        "span": [2 * busy] * 8,
        "gap": [busy] * 8,
        "profiled_step": [1.5 * step] * 8,
        "busy|attention": [busy / 2] * 8,
        "span|attention": [busy] * 8,
        "busy|softmax": [busy / 4] * 8,
        "busy|mlp": [busy / 3] * 8,
    }
    axes = {"backend": backend, "batch": batch}
    details = {"clocks": CLOCKS, "l2": "cold", "launch": "idle: all of it"}
    return MadeCell(
        axes,
        {"step_time": [steady(step)]},
        profile={**profile, **kind.pop("profile", {})},
        work={"bytes": 4e6, "flop": 16e6},
        details=details,
        profile_details={"nested_ranges": ["softmax"], "replay_kernels": "as eager"},
        kernels=[KernelShare("gemm<" + "T" * 300 + ">", "kernel", 32, busy, busy / 32, 1.0)],
        **kind,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    cells = [
        profiled("torch", 1, 10e-6, 6e-6, warnings=["3 of 8 samples ran throttled"]),
        profiled("triton", 1, 5e-6, 4e-6, warnings=["5 of 8 samples ran throttled"]),
        profiled("torch", 2, 20e-6, 21e-6),
        MadeCell({"backend": "triton", "batch": 2}, {"step_time": [steady(9e-6)]}, work={"bytes": 4e6, "flop": 16e6}),
        MadeCell({"backend": "mine", "batch": 1}, outcome=Outcome.CRASH, reason="signal 11"),
    ]
    return load_run(make_run(tmp_path_factory.mktemp("runs"), cells, ceilings=CEILINGS))


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    return write_report([run], ["html"], tmp_path_factory.mktemp("page"))[0]


@pytest.fixture
def page(written, open_page):
    return open_page(written)


def parts(page, cell: str) -> dict[str, float]:
    """The widths of a bar's parts by name, in percent of the longest bar of its shape."""
    spans = page.all(f'#times tr[data-cell="{cell}"] .timebar span')
    widths = [float(re.search(r"width: ([\d.]+)%", span.get_attribute("style"))[1]) for span in spans]
    names = [re.match(r"(.*) [\d.]+ \S+, [\d.]+%$", span.get_attribute("title"))[1] for span in spans]
    return dict(zip(names, widths, strict=True))


def test_a_step_is_what_its_ranges_what_lies_in_none_and_idling_add_up_to(page):
    assert parts(page, "cell_000") == pytest.approx(
        {"attention": 30, "mlp": 20, "in no range": 10, "GPU idle": 40}, rel=0.01
    )
    assert sum(parts(page, "cell_001").values()) == pytest.approx(50, rel=0.01)  # its shape's longest takes 10 µs


def test_a_range_within_another_one_is_not_added_to_it(page):
    assert "softmax" not in parts(page, "cell_000")
    page.click('#times tr[data-cell="cell_000"] button.link')
    assert "softmax within another" in page.one("#detail").text


def test_a_step_that_was_busy_for_longer_than_it_took_has_no_idle_part_and_an_overhead_below_nothing(page):
    assert sum(parts(page, "cell_002").values()) == pytest.approx(100, rel=0.01)
    assert "GPU idle" not in parts(page, "cell_002")
    assert "-" in page.one('#times tr[data-cell="cell_002"]').text


def test_only_cells_with_both_passes_are_split_and_they_follow_the_plots_filter(page):
    def shown() -> set[str]:
        return {row.get_attribute("data-cell") for row in page.all("#times tr[data-cell]")}

    assert shown() == {"cell_000", "cell_001", "cell_002"}
    assert [head.text for head in page.all("#times tr.shape")] == ["batch 1", "batch 2"]
    page.only("backend", "triton")
    assert shown() == {"cell_001"}


def test_the_figures_beside_a_bar_are_pythons(page, run):
    row = run.wide().set_index("cell_id").loc["cell_000"]
    told = [cell.text for cell in page.all('#times tr[data-cell="cell_000"] td.number')]
    units = {"step_time": "s", "busy": "s", "launch_overhead": "s", "gap": "s", "tax": "×"}
    assert told == [format_value(row[key], unit) for key, unit in units.items()]


def test_shares_and_factors_are_written_as_python_writes_them(page, run):
    wide = run.wide().set_index("cell_id")
    for row in page.table():
        for key, unit in (("roofline", "share"), ("roofline@nsys", "share"), ("tax", "×")):
            shown = row[f"series:{key}"].removeprefix("⚠ ")
            assert shown.startswith(format_value(wide.at[row["cell"], key], unit))


def test_the_roofline_has_every_cell_that_declares_its_work_by_the_profiler_where_there_was_one(page, run):
    roof, *points = page.driver.execute_script("""
        const traces = document.getElementById("roofline").data;
        return traces.map(({ x, y, customdata, text }) => ({ x, y, customdata, text }));
    """)
    assert sorted(row for trace in points for row in trace["customdata"]) == [0, 1, 2, 3]
    wide = run.wide()
    known = {row: rate for trace in points for row, rate in zip(trace["customdata"], trace["y"], strict=True)}
    assert [known[row] for row in range(4)] == [*wide["flop_per_s@nsys"].tolist()[:3], wide["flop_per_s"].tolist()[3]]
    assert page.one("#roofline-line").text == "4 cells, timed by nsys and cuda_event"
    assert {x for trace in points for x in trace["x"]} == {4.0}
    assert roof["y"][1:] == [800e12, 800e12]
    assert roof["x"][1] == 200.0
    assert roof["y"][0] == pytest.approx(4e12 * roof["x"][0])
    assert "copy 4.00 TB/s" in roof["text"]
    assert "bfloat16 matmul 800 TFLOP/s" in roof["text"]


def test_a_cell_tells_under_what_it_was_measured(page):
    page.click('#times tr[data-cell="cell_000"] button.link')
    dialog = page.one("#detail")
    told = dict(
        zip(*([e.text for e in dialog.find_elements("css selector", tag)] for tag in ("dt", "dd")), strict=True)
    )
    assert told["SM clock"] == "1,410–1,980 MHz"
    assert told["throttled"] == "3 of 8 samples (power cap)"
    assert told["launch"] == "idle"
    assert told["replay's kernels"] == "as eager"
    assert "3 of 8 samples ran throttled" in dialog.text


def test_warnings_that_differ_in_numbers_are_one_on_the_page(page):
    told = [" ".join(item.text.split()) for item in page.all("#warnings li")]
    wanted = "2 cells 3 of 8 samples ran throttled (the first cell's numbers) cell_000, cell_001"
    assert wanted in told


def test_a_point_of_the_roofline_opens_its_cell(page):
    page.driver.execute_script("""
        const plot = document.getElementById("roofline");
        plot.emit("plotly_click", { points: [{ customdata: 1 }] });
    """)
    assert "cell_001" in page.one("#detail").text


def test_a_metric_below_nothing_is_on_a_linear_axis_over_a_number(page):
    page.choose("x-axis", "batch")
    page.choose("y-axis", "launch overhead")
    shown = page.driver.execute_script("""
        return document.getElementById("plot").data.filter((trace) => trace.customdata && trace.yaxis !== "y2")
          .flatMap((trace) => trace.customdata);
    """)
    assert sorted(shown) == [0, 1, 2]


def test_sections_without_anything_to_show_are_not_there(open_page, tmp_path):
    run = load_run(make_run(tmp_path, [MadeCell({"batch": n}, {"step_time": [steady(1.0)]}) for n in (1, 2)]))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    for section in ("#time-section", "#roofline-section", "#warnings-section"):
        assert not page.one(section).is_displayed()


def test_many_cells_are_split_a_few_at_a_time(open_page, tmp_path):
    cells = [profiled(backend, batch, 1e-5, 8e-6) for batch in range(15) for backend in ("torch", "triton")]
    page = open_page(write_report([load_run(make_run(tmp_path, cells))], ["html"], tmp_path / "out")[0])
    assert len(page.all("#times tr[data-cell]")) == 12
    assert page.one("#times > p button").text == "Show the other 18"
    page.click("#times > p button")
    assert len(page.all("#times tr[data-cell]")) == 30
    assert not page.one("#times > p button").is_displayed()
