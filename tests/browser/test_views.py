"""What stands beside the plot: the heatmap, the kernels' bars and the graphs' memory."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from made_runs import MadeCell, make_large_run, make_run
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from gpubench.analysis.metrics import format_value
from gpubench.analysis.run import Run, load_run
from gpubench.records import KernelShare, Outcome
from gpubench.report import write_report

pytestmark = pytest.mark.browser

HOSTILE = '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">"\'`\u2028\u202eevil\n${1}'
MB = 2**20
ATTENTION = "void attention<" + "T, " * 100 + "int>(float*)"


def kernels(total: float, **shares: float) -> list[KernelShare]:
    names = {
        "attention": ATTENTION,
        "other_attention": "at::native::(anonymous namespace)::attention<int>(int)",
        "hostile": HOSTILE,
    }
    return [
        KernelShare(names.get(name, name), "kernel", 2, total * share, total * share / 2, share)
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]


def seconds(backend: str, batch: int, isl: int) -> float:
    return 1e-6 * batch * isl / (2 if backend == "triton" else 1)


def cell(backend: str, batch: int, isl: int) -> MadeCell:
    time = seconds(backend, batch, isl)
    if (backend, batch, isl) == ("torch", 4, 4096):
        return MadeCell({"backend": backend, "batch": batch, "isl": isl}, outcome=Outcome.OOM, reason="too large")
    memory = {}
    if (backend, batch, isl) == ("torch", 1, 512):
        memory = {
            "memory_allocated|bucket 8": [2.0 * MB],
            "memory_reserved|bucket 8": [6.0 * MB],
            "memory_pool|bucket 8": [5.0 * MB],
            "memory_driver|bucket 8": [1.0 * MB],
            "capture_time|bucket 8": [0.25],
            "memory_allocated|bucket 64": [18.0 * MB],
            "memory_reserved|bucket 64": [14.0 * MB],
            "capture_time|bucket 64": [0.5],
        }
    return MadeCell(
        {"backend": backend, "batch": batch, "isl": isl},
        {"step_time": [[time] * 6]},
        warnings=["unbroken_" * 30],
        profile={"busy": [time] * 6, "busy|mlp": [time / 2] * 6, **memory},
        kernels=kernels(
            time, attention=0.5, other_attention=0.25, hostile=0.15, **{f"tiny_{n}": 0.02 for n in range(5)}
        ),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    cells = [cell(backend, batch, isl) for backend in ("torch", "triton") for batch in (1, 2, 4) for isl in (512, 4096)]
    return load_run(make_run(tmp_path_factory.mktemp("runs"), cells))


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    return write_report([run], ["html"], tmp_path_factory.mktemp("page"))[0]


@pytest.fixture
def page(written, open_page):
    return open_page(written)


def heatmap(page) -> dict[str, dict[str, str]]:
    """The figures by row and column."""
    return page.driver.execute_script("""
        const heads = [...document.querySelectorAll("#heatmap thead th")].slice(1).map((head) => head.textContent);
        return Object.fromEntries([...document.querySelectorAll("#heatmap tbody tr")].map((row) =>
          [row.cells[0].textContent,
           Object.fromEntries(heads.map((head, place) => [head, row.cells[place + 1].textContent]))]));
    """)


def test_the_heatmap_has_a_metric_over_two_axes_with_the_others_fixed_as_it_says(page):
    page.choose("heat-metric", "step time")
    shown = heatmap(page)
    assert page.one("#heat-line").text == "step time by cuda_event, backend = triton", "it wins wherever both are"
    assert shown["512"] == {str(n): format_value(seconds("triton", n, 512), "s") for n in (1, 2, 4)}
    page.choose("heat-fix-backend", "torch")
    assert page.one("#heat-line").text == "step time by cuda_event, backend = torch"
    shown = heatmap(page)
    assert shown["512"] == {str(n): format_value(seconds("torch", n, 512), "s") for n in (1, 2, 4)}
    assert shown["4096"]["4"] == "▲"


def test_a_choice_of_the_heatmap_that_the_filter_leaves_no_cell_of_gives_way(page):
    page.choose("heat-metric", "step time")
    page.choose("heat-fix-backend", "torch")
    page.only("backend", "triton")
    assert heatmap(page)["512"]["1"] == format_value(seconds("triton", 1, 512), "s")
    assert page.one("#heat-line").text == "step time by cuda_event"
    assert page.all("#heat-fix-backend") == [], "one value is no choice"


def test_the_heatmap_takes_the_median_over_an_axis_and_says_how_many_cells_that_is(page):
    page.choose("heat-metric", "step time")
    page.choose("heat-fix-backend", "median over backend")
    assert page.one("#heat-line").text == "step time by cuda_event, median over backend; up to 2 cells in one"
    both = [seconds(backend, 2, 512) for backend in ("torch", "triton")]
    assert heatmap(page)["512"]["2"] == format_value(statistics.median(both), "s")
    assert heatmap(page)["4096"]["4"] == format_value(seconds("triton", 4, 4096), "s") + " ▲"


def test_any_two_axes_can_be_chosen_and_choosing_the_others_axis_swaps_them(page):
    page.choose("heat-down", "batch")
    assert (page.chosen("heat-down"), page.chosen("heat-across")) == ("batch", "isl")
    assert list(heatmap(page)) == ["1", "2", "4"]
    page.choose("heat-across", "backend")
    assert list(heatmap(page)["1"]) == ["torch", "triton"]
    assert "median over isl" in page.one("#heat-line").text


def test_shades_follow_the_figures_and_the_best_has_a_frame(page):
    page.choose("heat-metric", "step time")
    shades = page.driver.execute_script("""
        return [...document.querySelectorAll("#heatmap td[style]")]
          .map((cell) => parseFloat(cell.style.getPropertyValue("--shade")));
    """)
    assert min(shades) == 0
    assert max(shades) == 42
    assert [cell.text for cell in page.all("#heatmap td.best")] == [format_value(seconds("triton", 1, 512), "s")]


def test_a_cell_of_the_heatmap_opens(page):
    page.click("#heatmap td.best button")
    assert "cell_006" in page.one("#detail").text


def test_kernel_bars_are_as_long_as_the_sum_and_made_of_the_longest_kernels(page):
    bar = page.one('#kernels tr[data-cell="cell_000"] .timebar')
    parts = bar.get_attribute("aria-label").split("; ")
    assert parts[0].startswith("attention ")
    assert parts[0].endswith("50.0%")
    assert parts[1].startswith("attention (2) ")
    assert parts[-1].startswith("other kernels ")
    spans = page.all('#kernels tr[data-cell="cell_000"] .timebar span')
    widths = [float(re.search(r"width: ([\d.]+)%", span.get_attribute("style"))[1]) for span in spans]
    assert sum(widths) == pytest.approx(100, rel=0.01)
    triton = page.all('#kernels tr[data-cell="cell_006"] .timebar span')
    widths = [float(re.search(r"width: ([\d.]+)%", span.get_attribute("style"))[1]) for span in triton]
    assert sum(widths) == pytest.approx(50, rel=0.01)
    keys = [key.get_attribute("title") for key in page.all("#kernel-legend .key")]
    assert ATTENTION in keys


def bars(page, table: str) -> list[str]:
    return [bar.get_attribute("aria-label") for bar in page.all(f"{table} .timebar")]


def test_a_buckets_memory_is_stacked_without_counting_anything_twice(page):
    lines = page.all("#memory tbody tr[data-cell]")
    assert [line.find_element("css selector", "td").text for line in lines] == ["bucket 64", "bucket 8"]
    mb = [format_value(n * MB, "B") for n in range(30)]
    assert bars(page, "#memory") == [
        f"allocated {mb[14]}, 100.0%",  # of 18, four lie in what was reserved before
        f"allocated {mb[2]}, 28.6%; reserved beyond that {mb[4]}, 57.1%; driver overhead {mb[1]}, 14.3%",
    ]
    heads = [head.text for head in page.all("#memory thead th")]
    assert heads == ["bucket", "", "so far", "allocated", "reserved", "graphs' pool", "driver overhead", "capture time"]
    figures = [[cell.text for cell in line.find_elements("css selector", "td.number")] for line in lines]
    assert figures == [[mb[14], mb[18], mb[14], "–", "–", "500 ms"], [mb[21], mb[2], mb[6], mb[5], mb[1], "250 ms"]]


def test_all_buckets_of_a_cell_are_told_together_before_them_and_each_bar_begins_where_the_last_one_ended(page):
    mb = [format_value(n * MB, "B") for n in range(30)]
    (line,) = page.all("#memory-totals tbody tr")
    figures = [cell.text for cell in line.find_elements("css selector", "td.number")]
    assert figures == ["2: 8 to 64", mb[20], mb[20], mb[5], mb[1], "750 ms"]
    assert bars(page, "#memory-totals") == [
        f"allocated {mb[16]}, 76.2%; reserved beyond that {mb[4]}, 19.0%; driver overhead {mb[1]}, 4.8%"
    ]
    first, second = page.all("#memory .timebar")
    begins = [bar.find_element("css selector", "span").rect["x"] for bar in (first, second)]
    assert begins[1] - begins[0] == pytest.approx(first.rect["width"] * 14 / 21, abs=2)
    assert page.one("#memory-line").text == f"1 cell; all buckets of one take {mb[21]}"


def test_buckets_are_no_ranges_of_the_step_and_are_in_the_dialog_of_their_cell(page):
    page.click('#table tr[data-cell="cell_000"] button.link')
    dialog = page.one("#detail").text
    ranges = dialog.partition("Ranges within the step")[2].partition("Kernels per repetition")[0]
    assert "mlp" in ranges
    assert "bucket" not in ranges
    assert "bucket 64" in dialog.partition("Memory of its graphs")[2]


def test_what_users_wrote_stays_text_in_every_view(open_page, tmp_path):
    cells = [
        MadeCell(
            {"backend": HOSTILE + name, HOSTILE: HOSTILE + str(n), "n": n},
            {"step_time": [[1e-5 * n] * 6], HOSTILE: [[1.0 * n] * 6]},
            profile={"busy": [1e-5] * 6},
            kernels=kernels(1e-5, hostile=1.0),
            outcome=Outcome.OK if n < 3 else Outcome.CRASH,
        )
        for n in (1, 2, 3)
        for name in "ab"
    ]
    run = load_run(make_run(tmp_path, cells))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    page.driver.execute_script("""
        const select = document.getElementById("heat-down");
        select.value = [...select.options].find((option) => option.text.startsWith("<script>")).value;
        select.dispatchEvent(new Event("change"));
    """)
    assert any("onerror=" in text for text in heatmap(page))
    assert page.all("main img, main script, b b") == []
    assert page.driver.execute_script("return window.pwned") is None
    for section in ("#heatmap", "#heat-controls", "#kernels", "#kernel-legend"):
        assert "\u202e" not in page.one(section).get_attribute("textContent")


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [MadeCell({"batch": 1}, {"step_time": [[1.0] * 6]})],
        [MadeCell({"batch": b, "isl": 2}, outcome=Outcome.CRASH) for b in (1, 2)],
        [MadeCell({"batch": b}, {"step_time": [[1.0] * 3]}) for b in (1, 2)],
    ],
    ids=["no cells", "one cell", "all dead", "one axis"],
)
def test_views_without_anything_to_show_are_not_there(open_page, tmp_path, cells):
    run = load_run(make_run(tmp_path, cells))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    for section in ("heat", "kernel", "memory", "time", "roofline"):
        assert not page.one(f"#{section}-section").is_displayed()


def test_a_page_fits_360_pixels_and_its_tables_scroll_within_themselves(page):
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        WebDriverWait(page.driver, 10).until(
            lambda driver: driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        )
        wide = (
            "return [...document.querySelectorAll('main .scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"
        )
        assert page.driver.execute_script(wide) > 2
        hint = "return getComputedStyle(document.getElementById('table')).backgroundAttachment"
        assert page.driver.execute_script(hint).startswith("local, local, scroll, scroll")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_paper_is_light_has_no_controls_and_cuts_no_table_off(page):
    driver = page.driver
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    try:
        driver.execute_script("dispatchEvent(new Event('beforeprint'))")
        background = "return getComputedStyle(document.body).backgroundColor"
        assert driver.execute_script(background) == "rgb(255, 255, 255)"
        assert not any(control.is_displayed() for control in page.all(".controls, .pager, #tooltip, .modebar"))
        assert not any(region.is_displayed() and cuts(driver, region) for region in page.all(".scroll"))
        assert len(page.all("#kernels tr[data-cell]")) == 11
    finally:
        driver.execute_script("dispatchEvent(new Event('afterprint'))")
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def cuts(driver, region) -> bool:
    style = "const style = getComputedStyle(arguments[0]); return [style.overflowX, style.overflowY, style.maxHeight]"
    return driver.execute_script(style, region) != ["visible", "visible", "none"]


def test_thousands_of_cells_open_sort_and_tell_of_one(open_page, tmp_path):
    cells = [
        cell(backend, batch, isl) for backend in ("torch", "triton") for batch in range(1, 16) for isl in range(100)
    ]
    run = load_run(make_large_run(tmp_path, cells))
    page = open_page(write_report([run], ["html"], tmp_path / "out")[0])
    assert "60 of 100 values of isl" in page.one("#heat-words").text
    assert len(page.all("#kernels tr[data-cell]")) == 12
    page.click('th[data-key="series:step_time"] button')
    page.click("#table tbody tr td:last-child")
    assert "Kernels per repetition" in page.one("#detail").text


def test_a_run_of_an_older_schema_that_was_interrupted_opens(open_page, tmp_path):
    path = make_run(tmp_path, [cell("torch", 1, 512), cell("triton", 1, 512), MadeCell({"batch": 2}, outcome=None)])
    lines = (path / "cells.jsonl").read_bytes().splitlines()
    newer = ("hazards", "kernels", "work", "details", "checks", "warnings")
    older = [{key: value for key, value in json.loads(line).items() if key not in newer} for line in lines]
    text = "\n".join(json.dumps(line | {"schema": 0}) for line in older)
    (path / "cells.jsonl").write_text(text + '\n{"cell_id": "cell_0', encoding="utf-8")
    page = open_page(write_report([load_run(path)], ["html"], tmp_path / "out")[0])
    assert page.one(".verdict").text.startswith("2 of 3 cells are ok.")
    page.click('#table tr[data-cell="cell_000"] button.link')
    assert "Figures" in page.one("#detail").text
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.click('#table tr[data-cell="cell_002"] button.link')
    assert "not run" in page.one("#detail").text


def test_cells_that_are_not_ok_and_stand_at_one_place_say_how_many_they_are(open_page, tmp_path):
    cells = [MadeCell({"kind": str(n), "batch": 8}, outcome=Outcome.CRASH) for n in range(3)]
    cells += [MadeCell({"kind": "0", "batch": n}, {"step_time": [[1e-5] * 6]}) for n in (1, 8)]
    cells.append(MadeCell({"kind": "0", "batch": 1}, outcome=Outcome.CRASH))
    page = open_page(write_report([load_run(make_run(tmp_path, cells))], ["html"], tmp_path / "out")[0])
    drawn = page.driver.execute_script("""
        const strip = document.getElementById("plot").data.find((trace) => trace.yaxis === "y2");
        return strip.x.map((x, place) => [x, strip.text[place]]);
    """)
    assert sorted(drawn) == [[1, ""], [8, ""], [8, ""], [8, "×3"]]
