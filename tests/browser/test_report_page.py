"""The page in a real browser: opened from disk, without a network."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from made_runs import MadeCell, make_large_run, make_run
from selenium.webdriver.support.ui import WebDriverWait

from gpubench.analysis.frontier import frontier
from gpubench.analysis.metrics import format_value
from gpubench.analysis.run import Run, load_run
from gpubench.records import Outcome
from gpubench.report import write_report
from gpubench.report.content import read_content

pytestmark = pytest.mark.browser

HOSTILE = (
    '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">"\'`</script><b>\u2028\u202eevil\n${1}'
)


def grid(count: int, seed: int = 5) -> list[MadeCell]:
    """Cells whose figures spread over many orders of magnitude, with ties, near ties and dead ones among them."""
    generator = np.random.default_rng(seed)
    cells = []
    for place in range(count):
        axes = {
            "backend": ["torch", "triton", "mine"][place % 3],
            "batch": 1 << place % 7,
            "isl": 512 * (1 + place // 21),
        }
        seconds = float(np.round(10 ** generator.uniform(-5.2, -4.8), 7))
        samples = [[seconds * (1 + 0.02 * float(noise)) for noise in generator.standard_normal(8)] for _ in range(2)]
        if place % 5 == 0:
            samples = [[1e-5] * 8] * 2
        figures = {
            "step_time": samples,
            "tok_s_user": [[1 / value for value in trial] for trial in samples],
            "tok_s_gpu": [[axes["batch"] / value for value in trial] for trial in samples],
            # Few values and no noise: ties in one metric, in the other, and in both.
            "queue_time": [[float(generator.integers(1, 6))] * 8],
            "goodput": [[float(generator.integers(1, 6))] * 8],
        }
        outcome = [Outcome.CRASH, Outcome.OOM, Outcome.SKIPPED][place // 11 % 3] if place % 11 == 7 else Outcome.OK
        cells.append(MadeCell(axes, figures, outcome=outcome, reason="as it happens", stderr="the last words\n"))
    return cells


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return load_run(make_run(tmp_path_factory.mktemp("runs"), grid(63)))


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    return write_report([run], ["html"], tmp_path_factory.mktemp("page"))[0]


@pytest.fixture
def page(written, open_page):
    opened = open_page(written)
    opened.show_all_rows()
    return opened


def on_frontier(run: Run, x: str, y: str, where: str = "index >= 0") -> tuple[set[str], set[str]]:
    """The cells that Python has on the frontier, and near it."""
    metrics = run.metrics()
    found = frontier(run.wide().query(where), metrics[x], metrics[y])
    return set(found[found["on_frontier"]]["cell_id"]), set(found[found["near"]]["cell_id"])


def test_the_frontier_of_any_two_metrics_is_pythons(page, run):
    labels = {key: metric.label for key, metric in run.metrics().items()}
    for x, y in itertools.permutations(labels, 2):
        page.choose("x-axis", labels[x])
        page.choose("y-axis", labels[y])
        on, near = on_frontier(run, x, y)
        assert (page.marked("●"), page.marked("≈")) == (on, near)
        assert page.one("#frontier-line").text.startswith(f"{len(on)} of ")


def test_a_filter_recomputes_the_frontier_over_what_is_left(page, run):
    page.only("isl", "1024")
    assert (page.marked("●"), page.marked("≈")) == on_frontier(run, "tok_s_user", "tok_s_gpu", "isl == 1024")
    assert {row["axis:isl"] for row in page.table()} == {"1024"}


def test_the_lines_are_the_frontiers_of_the_groups_as_they_are_read_between_cells(page, run):
    page.choose("group", "isl")
    metrics = run.metrics()
    found = frontier(run.wide(), metrics["tok_s_user"], metrics["tok_s_gpu"], ["isl"])
    drawn = page.driver.execute_script("""
        return document.getElementById("plot").data.filter((trace) => trace.mode === "lines")
          .map(({ name, x, y }) => [name, x.filter((value) => value !== null), y.filter((value) => value !== null)]);
    """)
    lines = {name: (x, y) for name, x, y in drawn}
    groups = dict(iter(found[found["on_group_frontier"]].groupby("group")))
    assert set(lines) == set(groups)
    for name, members in groups.items():
        places = members[["tok_s_user", "tok_s_gpu"]].drop_duplicates().sort_values("tok_s_user")
        x, y = lines[name]
        assert set(places.itertuples(index=False, name=None)) <= set(zip(x, y, strict=True))
        wanted = np.exp(np.interp(np.log(x), *np.log(places.to_numpy()).T))
        assert y == pytest.approx(wanted), "straight on two logarithmic axes"
    assert max(len(x) for x, _ in lines.values()) > found["on_group_frontier"].sum(), (
        "bent on the linear axes of this page"
    )


def test_a_picture_of_the_plot_says_what_is_better_and_where_its_figures_are_from(page, run):
    titles, notes = page.driver.execute_script("""
        const { xaxis, yaxis, annotations } = document.getElementById("plot").layout;
        return [[xaxis.title.text, yaxis.title.text], annotations.map(({ text }) => text)];
    """)
    assert titles == ["tok/s/user, higher is better", "tok/s/GPU, higher is better"]
    assert f"NVIDIA H200 · cuda_event · 21 November 2026 · {run.run_id}" in notes
    words = page.one("#axis-words").text
    assert "Cells of one group differ in batch (the labels) and isl, and a frontier is of them all" in words


def test_figures_are_written_as_python_writes_them(page, run):
    wide, metrics = run.wide().set_index("cell_id"), run.metrics()
    for row in page.table():
        for key, metric in metrics.items():
            shown = row[f"series:{key}"].removeprefix("⚠ ")
            assert shown.startswith(format_value(wide.at[row["cell"], key], metric.unit))


def test_every_cell_is_in_the_table_and_every_dead_one_in_the_list_of_those(page, run):
    assert {row["cell"] for row in page.table()} == set(run.wide()["cell_id"])
    dead = run.wide().query("outcome != 'ok'")
    assert {row.get_attribute("data-cell") for row in page.all("#failed tbody tr")} == set(dead["cell_id"])
    assert "the last words" in page.one("#failed pre").get_attribute("textContent")
    strip = page.driver.execute_script("""
        return document.getElementById("plot").data.filter((trace) => trace.yaxis === "y2").flatMap((trace) => trace.y);
    """)
    assert sorted(strip) == sorted(dead["outcome"])


def test_a_click_sorts_and_another_turns_the_order_with_what_is_missing_last(page, run):
    times = run.wide().set_index("cell_id")["step_time"]
    for ascending in (True, False):
        page.click('th[data-key="series:step_time"] button')
        order = [row["cell"] for row in page.table()]
        expected = times.sort_values(ascending=ascending, kind="stable").dropna()
        assert times[order[: len(expected)]].tolist() == expected.tolist()
        assert times[order[len(expected) :]].isna().all()
        assert (
            page.one('th[data-key="series:step_time"]')
            .get_attribute("aria-sort")
            .startswith("asc" if ascending else "desc")
        )


def test_words_and_outcomes_filter_the_table(page, run):
    page.one("#filter").send_keys("BACKEND=triton isl=512")
    expected = run.wide().query("backend == 'triton' and isl == 512")
    assert {row["cell"] for row in page.table()} == set(expected["cell_id"])
    page.click('.chip[data-outcome="ok"]')
    assert {row["cell"] for row in page.table()} == set(expected.query("outcome == 'ok'")["cell_id"])


def test_hovering_tells_of_a_point_and_a_click_on_a_cell_opens_it(page):
    page.driver.execute_script("""
        const plot = document.getElementById("plot"), curve = plot.data.findIndex((trace) => trace.customdata);
        const points = [{ customdata: plot.data[curve].customdata[0] }];
        plot.emit("plotly_hover", { points, event: { clientX: 9, clientY: 9 } });
    """)
    tooltip = page.one("#tooltip").text
    assert "cell_0" in tooltip
    assert "batch" in tooltip
    assert "tok/s/user" in tooltip
    page.click('#failed tr[data-cell="cell_007"] button.link')
    dialog = page.one("#detail").text
    assert "gpubench reproduce mla-decode-20261121-093000 cell_007" in dialog
    assert "as it happens" in dialog
    page.click("#detail header button")
    assert not page.one("#detail").is_displayed()


def test_every_control_can_be_reached_and_named_by_keyboard_and_reader(page):
    controls = [control for control in page.all("main select, main input, main button") if control.is_displayed()]
    assert len(controls) > 20
    for control in controls:
        assert control.accessible_name.strip()
        assert control.get_attribute("tabindex") != "-1"


def test_an_axis_on_x_draws_lines_and_claims_no_frontier(page):
    page.choose("x-axis", "batch")
    assert "frontier" not in page.one("#frontier-line").text
    assert "frontier" not in page.table()[0]


def test_a_count_of_what_ran_has_no_winner_no_frontier_and_no_better_way(open_page, tmp_path):
    cells = [
        MadeCell({"backend": backend, "batch": batch}, {"tok_s_user": [[9.0 * batch] * 6], "decoding": [[batch] * 6]})
        for backend in ("eager", "graph")
        for batch in (2, 4)
    ]
    counted = load_run(make_run(tmp_path, cells, sweep={"pareto": {"x": "tok_s_user", "y": "decoding"}}))
    page = open_page(write_report([counted], ["html"], tmp_path)[0])
    assert page.one("#frontier-line").text == "No frontier: of decoding neither more nor less is better"
    assert "frontier" not in page.table()[0]
    assert len(page.all("#plot .scatterlayer .point")) >= len(cells)
    page.choose("heat-metric", "decoding")
    assert page.all("#heatmap td[style]")
    assert not page.all("#heatmap td.best")
    assert "better" not in page.one("#heat-words").text
    assert "tok_s_user higher" in (meanings := page.one("section[aria-labelledby=metrics-title]").text)
    assert "decoding decoding neither" in meanings
    page.choose("heat-metric", "tok/s/user")
    assert page.all("#heatmap td.best")
    assert not page.errors()


def test_what_users_wrote_stays_text(open_page, tmp_path):
    cells = [
        MadeCell(
            {"backend": HOSTILE + name, HOSTILE: HOSTILE, "batch": number},
            {"step_time": [[0.1 * number] * 6], HOSTILE: [[1.0 * number] * 6]},
            outcome=Outcome.OK if number < 3 else Outcome.CRASH,
            reason=HOSTILE,
            stderr=HOSTILE,
        )
        for number, name in enumerate("abcd", start=1)
    ]
    run = load_run(make_run(tmp_path, cells, sweep={"pareto": {"x": HOSTILE, "y": "step_time", "group": ["backend"]}}))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    assert page.chosen("x-axis").startswith("<script>window.pwned = 1</script>")
    page.click("#failed button.link")
    page.click("#failed summary")
    assert page.driver.execute_script("return window.pwned") is None
    assert page.all("img, b b, main script") == []
    assert "onerror=" in page.one("#failed td.reason").text
    assert "⟨U+202E⟩" in page.one("#failed td.reason").text
    legend = page.one(".legendtext").get_attribute("textContent")
    assert legend.startswith("<script>")


@pytest.mark.parametrize(
    ("cells", "verdict"),
    [
        ([], "This run has no cells."),
        ([MadeCell({"batch": 1}, {"step_time": [[1.0] * 6]})], "The one cell is ok."),
        ([MadeCell({"batch": b}, outcome=Outcome.CRASH) for b in (1, 2)], "None of 2 cells is ok."),
        (
            [MadeCell({"batch": b}, {"step_time": [[1.0]]}, outcome=o) for b, o in ((1, Outcome.OK), (2, None))],
            "1 of 2",
        ),
        ([MadeCell({"tile": t}, {"step_time": [[1.0] * 6]}) for t in ("a", None, 3, True)], "All 4 cells are ok."),
    ],
    ids=["no cells", "one cell", "all dead", "interrupted", "axis of mixed kinds"],
)
def test_a_page_with_little_to_show_shows_that(open_page, tmp_path, cells, verdict):
    run = load_run(make_run(tmp_path, cells))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    assert page.one(".verdict").text.startswith(verdict)
    assert len(page.table()) == len(cells)


def test_runs_laid_over_one_another_are_groups(open_page, tmp_path):
    runs = [load_run(make_run(tmp_path, grid(12, seed))) for seed in (1, 2)]
    page = open_page(write_report(runs, ["html"], tmp_path / "out")[0])
    assert page.chosen("group") == "run × backend"
    page.choose("group", "run")
    assert {name.text for name in page.all(".legendtext")} == {run.run_id for run in runs}
    assert len(page.table()) == 24


def test_ten_thousand_cells_open_page_by_page_with_the_same_frontier(open_page, tmp_path):
    run = load_run(make_large_run(tmp_path, grid(10_000)))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    page.show_all_rows()
    page.click('th[data-key="frontier"] button')
    assert page.marked("●") == on_frontier(run, "tok_s_user", "tok_s_gpu")[0]
    assert page.one("#page-line").text == "1–1,000 of 10,000"
    page.choose("x-axis", "step time")
    assert page.marked("●") == on_frontier(run, "step_time", "tok_s_gpu")[0]


def test_a_page_lays_out_at_800_pixels_and_follows_the_reader_into_the_dark(page):
    page.driver.set_window_size(800, 900)
    try:
        fits = "return innerWidth === 800 && document.documentElement.scrollWidth <= innerWidth"
        WebDriverWait(page.driver, 10).until(lambda driver: driver.execute_script(fits))
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
        background = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        ink = page.driver.execute_script("return document.getElementById('plot').layout.font.color")
        assert (background, ink) == ("rgb(20, 24, 31)", "#e6e9ef")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.driver.set_window_size(1280, 1000)


def test_every_row_goes_to_paper(open_page, run, written):
    page = open_page(written)
    assert len(page.table()) == 50
    page.driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(page.table()) == len(run.cells)
    page.driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(page.table()) == 50


def test_the_default_axes_of_the_page_are_the_contents(page, run):
    choice = read_content([run]).choice
    assert (page.chosen("x-axis"), page.chosen("y-axis")) == ("tok/s/user", "tok/s/GPU")
    assert (choice.x, choice.y) == ("tok_s_user", "tok_s_gpu")
