"""What can be chosen about the plot: filters, limits, where groups are compared, and the link that carries it all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np
import pandas as pd
import pytest
from made_runs import MadeCell, make_large_run, make_run
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from gpubench.analysis.frames import field
from gpubench.analysis.frontier import frontier
from gpubench.analysis.movement import area, at_level
from gpubench.analysis.run import Run, load_run
from gpubench.records import Outcome
from gpubench.report import write_report

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="window.pwned = 1">"\'`</script>\u202e&amp;'


def served(count: int, seed: int = 3) -> list[MadeCell]:
    """Cells of three backends whose users wait the longer the more of them there are; some die, some have no TTFT."""
    generator = np.random.default_rng(seed)
    cells = []
    for place in range(count):
        backend = ["torch", "triton", "mine"][place % 3]
        users, isl = 1 << place // 3 % 8, 512 * (1 + place // 24)
        tpot = (1e-3 + 1e-4 * users) * [1, 0.9, 1.1][place % 3] * float(generator.uniform(0.8, 1.25))
        noise = 1 + 0.03 * generator.standard_normal(12)
        samples = {
            "tpot": [(tpot * noise).tolist()],
            "tok_s_user": [(1 / (tpot * noise)).tolist()],
            "tok_s_gpu": [(users / (tpot * noise)).tolist()],
        }
        if place % 7:
            samples["ttft"] = [(30 * tpot * (1 + 0.2 * generator.random(12))).tolist()]
        outcome = Outcome.OOM if place % 10 == 9 else Outcome.OK
        cells.append(MadeCell({"backend": backend, "concurrency": users, "isl": isl}, samples, outcome=outcome))
    return cells


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return load_run(make_run(tmp_path_factory.mktemp("runs"), served(72)))


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    return write_report([run], ["html"], tmp_path_factory.mktemp("page"))[0]


@pytest.fixture
def page(written, open_page):
    opened = open_page(written)
    opened.show_all_rows()
    return opened


def marks(run: Run, wide: pd.DataFrame, x: str = "tok_s_user", y: str = "tok_s_gpu") -> tuple[set[str], set[str]]:
    """The cells that Python has on the frontier, and near it."""
    found = frontier(wide, run.metrics()[x], run.metrics()[y])
    return set(found[found["on_frontier"]]["cell_id"]), set(found[found["near"]]["cell_id"])


def told(page) -> dict[str, tuple[float | None, float | None]]:
    """By group, the area under its frontier and what it yields at the chosen x."""
    rows = page.driver.execute_script("""
        const number = (text) => (text === undefined ? null : Number(text));
        return [...document.querySelectorAll("#groups tbody tr")].map(({ dataset }) =>
          [dataset.group, number(dataset.area), number(dataset.yield)]);
    """)
    return {name: (under, value) for name, under, value in rows}


def turned(run: Run, wide: pd.DataFrame, key: str) -> np.ndarray:
    values = wide[key].to_numpy(dtype=float)
    return values if run.metrics()[key].higher_is_better else 1 / values


def open_link(page, **parts: str) -> None:
    """Open the page anew from a link."""
    address = page.driver.current_url.split("#")[0]
    page.driver.get("about:blank")
    page.driver.get(f"{address}#{urlencode(parts)}")
    WebDriverWait(page.driver, 60).until(
        lambda driver: driver.execute_script("return document.documentElement.dataset.ready")
    )
    page.show_all_rows()


def type_number(page, control: str, text: str) -> None:
    field = page.one(f"#{control}")
    field.clear()
    page.one(f"#{control}").send_keys(text + Keys.TAB)


def grey(page) -> set[str]:
    return set(
        page.driver.execute_script("""
        const ids = JSON.parse(document.getElementById("data").textContent).cells.id;
        return document.getElementById("plot").data.filter((trace) => trace.name === "misses a limit")
          .flatMap((trace) => trace.customdata).map((row) => ids[row]);
    """)
    )


def test_several_values_of_several_axes_are_kept_and_the_frontier_is_pythons_of_them(page, run):
    page.only("isl", "512", "1536")
    page.only("concurrency", "2", "4", "64")
    wide = run.wide().query("isl in [512, 1536] and concurrency in [2, 4, 64]")
    assert {row["cell"] for row in page.table()} == set(wide["cell_id"])
    assert (page.marked("●"), page.marked("≈")) == marks(run, wide)
    assert page.one("#filter-line").text == f"{len(wide)} of 72 cells pass"
    page.choose("x-axis", "TPOT")
    assert (page.marked("●"), page.marked("≈")) == marks(run, wide, "tpot")
    page.click("#clear-filters")
    assert (page.marked("●"), page.marked("≈")) == marks(run, run.wide(), "tpot")


def test_a_filter_counts_what_the_other_filters_leave(page, run):
    page.only("concurrency", "2", "4")
    page.only("isl", "512")
    page.one("#filter-isl summary").send_keys(Keys.ENTER)
    lines = page.one("#filter-isl .values").text.split("\n")
    found = dict(zip(lines[2::2], lines[3::2], strict=True))
    kept = run.wide().query("concurrency in [2, 4]")
    assert found == {str(isl): str(number) for isl, number in kept.groupby("isl").size().items()}
    page.one("#filter-isl summary").send_keys(Keys.ESCAPE)
    assert not page.one("#filter-isl .values").is_displayed()


def test_nothing_that_passes_is_said_and_every_value_again_is_no_filter(page):
    page.only("isl")
    assert page.one("#plot-empty").text == "No cell passes the filter."
    page.click("#filter-isl summary")
    page.click("#filter-isl .both button")
    assert "only" not in page.driver.current_url


def test_what_misses_a_limit_is_grey_on_no_frontier_and_counted(page, run):
    type_number(page, "limit-1", "6")
    wide = run.wide()
    ok = wide[wide["outcome"] == "ok"]
    kept = ok[ok["tpot"] <= 6e-3]
    assert (page.marked("●"), page.marked("≈")) == marks(run, kept)
    assert grey(page) == set(ok["cell_id"]) - set(kept["cell_id"])
    assert page.one("#limits-line").text == (
        f"{len(ok) - len(kept)} of {len(ok)} ok cells miss the limits "
        f"(TPOT ≤ 6.00 ms: {len(ok) - len(kept)} above): grey, and on no frontier."
    )


def test_two_limits_hold_together_and_a_cell_without_the_figure_keeps_none(page, run):
    type_number(page, "limit-1", "6")
    type_number(page, "limit-0", "100")
    page.choose("limit-0-statistic", "p99")
    wide = run.wide()
    ok = wide[wide["outcome"] == "ok"]
    kept = ok[(ok["tpot"] <= 6e-3) & (ok[field("ttft", "p99")] <= 0.1)]
    assert (page.marked("●"), page.marked("≈")) == marks(run, kept)
    above, unknown = int((ok[field("ttft", "p99")] > 0.1).sum()), int(ok["ttft"].isna().sum())
    assert above
    assert unknown
    assert f"p99 TTFT ≤ 100 ms: {above} above, {unknown} without a figure" in page.one("#limits-line").text


@pytest.mark.parametrize("x", ["tok_s_user", "tpot"])
@pytest.mark.parametrize("y", ["tok_s_gpu", "ttft"])
def test_the_area_and_what_a_group_yields_at_an_x_are_pythons(page, run, x, y):
    at = {"tok_s_user": 300.0, "tpot": 4e-3}[x]
    only = json.dumps([["isl", [512, 1024]]])
    open_link(
        page, x=x, y=y, at=str(at), only=only, limits=json.dumps([["ttft", "median", 0.3], ["tpot", "p90", 0.02]])
    )
    wide = run.wide().query("isl <= 1024 and outcome == 'ok' and ttft <= 0.3")
    wide = wide[wide[field("tpot", "p90")] <= 0.02]
    found = told(page)
    assert set(found) == {"torch", "triton", "mine"}
    for backend, members in wide.groupby("backend"):
        xs, ys = turned(run, members, x), turned(run, members, y)
        level = at_level(xs, ys, at if run.metrics()[x].higher_is_better else 1 / at)
        wanted = level if level is None or run.metrics()[y].higher_is_better else 1 / level
        assert found[backend] == (pytest.approx(area(xs, ys)), pytest.approx(wanted) if wanted else None)


def test_what_no_cell_reaches_and_what_is_worse_is_said_as_loudly_as_what_is_better(page):
    type_number(page, "at", "100000")
    assert page.one("#groups").text.count("▼ not reached") == 3
    open_link(page)
    for against, others in (("mine", ("torch", "triton")), ("triton", ("torch", "mine"))):
        page.choose("against", against)
        rows = {row.get_attribute("data-group"): row for row in page.all("#groups tbody tr")}
        found = told(page)
        for other in others:
            sign = "▲" if found[other][0] > found[against][0] else "▼"
            assert rows[other].find_elements("css selector", "td")[3].text.startswith(sign)
        assert {e.value_of_css_property("font-weight") for e in page.all(".gain, .loss")} == {"650"}


def test_a_group_of_which_cells_were_not_run_is_neither_better_nor_worse_and_decides_nothing(open_page, tmp_path):
    def cell(backend, users):
        rates = {"tok_s_user": [[100.0 - users] * 6], "tok_s_gpu": [[users * (100.0 - users)] * 6]}
        return MadeCell({"backend": backend, "concurrency": users}, rates)

    cells = [cell(backend, users) for backend in ("torch", "triton") for users in (2, 8)]
    cells += [cell("mine", 50), MadeCell({"backend": "mine", "concurrency": 2}, outcome=None)]
    page = open_page(write_report([load_run(make_run(tmp_path, cells))], ["html"], tmp_path / "out")[0])
    rows = {row.get_attribute("data-group"): row for row in page.all("#groups tbody tr")}
    areas = {name: row.find_elements("css selector", "td")[3].text for name, row in rows.items()}
    assert areas == {"torch": "", "triton": "same", "mine": "–"}
    assert page.one("#at").get_attribute("placeholder") == "98", "not 50, where the line of mine ends for now"


def test_groups_that_their_intervals_cannot_tell_apart_are_called_neither(open_page, tmp_path):
    cells = []
    for backend, factor in (("torch", 1.0), ("triton", 1.004), ("mine", 0.5)):
        for users in (1, 4, 16):
            rates = [factor * (100 - users) * (1 + 0.02 * (n % 5 - 2)) for n in range(20)]
            samples = {"tok_s_user": [rates], "tok_s_gpu": [[users * rate for rate in rates]]}
            cells.append(MadeCell({"backend": backend, "concurrency": users}, samples))
    page = open_page(write_report([load_run(make_run(tmp_path, cells))], ["html"], tmp_path / "out")[0])
    rows = {row.get_attribute("data-group"): row.text for row in page.all("#groups tbody tr")}
    assert rows["triton"].count("≈") == 2
    assert "▲" not in rows["triton"]
    assert rows["mine"].count("▼") == 2


def view_of(page) -> dict[str, object]:
    return page.driver.execute_script("""
        const plot = document.getElementById("plot"), section = document.getElementById("plot-section");
        const dialog = document.getElementById("detail");
        const controls = [...section.querySelectorAll("select, input:not(.menu input)")];
        return {
          chosen: controls.map((each) => [each.id, each.type === "checkbox" ? each.checked : each.value]),
          traces: plot.data.map(({ name, x, y, text }) => [name, x, y, text]),
          scales: [plot.layout.xaxis.type, plot.layout.yaxis.type],
          menus: [...section.querySelectorAll("summary")].map((menu) => menu.textContent),
          words: section.querySelector("#summary").innerText,
          open: dialog.open && dialog.querySelector("h2").textContent,
        };
    """)


def test_a_link_shows_the_same_view_and_back_and_forward_walk_through_it(page):
    views = [(page.driver.current_url, view_of(page))]

    def look() -> None:
        views.append((page.driver.current_url, view_of(page)))

    for control, text in (("x-axis", "TPOT"), ("statistic", "slowest 10%"), ("group", "isl"), ("label", "backend")):
        page.choose(control, text)
        look()
    page.click("#log-x")
    look()
    page.only("backend", "mine", "torch")
    look()
    type_number(page, "limit-1", "7.5")
    look()
    type_number(page, "at", "3")
    look()
    page.choose("against", "1024")
    look()
    page.click('#cells tr[data-cell="cell_000"] button.link')
    look()
    assert views[-1][1]["open"] == "cell_000"
    assert len({address for address, _ in views}) == len(views)
    page.driver.back()
    WebDriverWait(page.driver, 10).until(lambda driver: driver.current_url == views[-2][0])
    assert view_of(page) == views[-2][1]
    page.driver.forward()
    WebDriverWait(page.driver, 10).until(lambda driver: view_of(page)["open"])
    for address, view in views[::-3]:
        page.driver.get("about:blank")
        page.driver.get(address)
        assert view_of(page) == view
    page.click("#reset-view")
    assert "#" not in page.driver.current_url
    assert view_of(page) == views[0][1]


def test_the_button_copies_the_link_of_the_view(page):
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    page.choose("x-axis", "TPOT")
    page.one("#copy-link").click()
    WebDriverWait(page.driver, 10).until(lambda _: page.one("#copied").text)
    if page.one("#copied").text == "Copied.":
        return
    assert page.one("#link").get_attribute("value") == page.driver.current_url


@pytest.mark.parametrize(
    ("fragment", "ignored"),
    [
        ("x=nope", "x=nope"),
        (f"zz=1&{quote(HOSTILE)}=2", "zz; <img"),
        (f"group={quote(json.dumps([HOSTILE]))}", 'group=["<img'),
        ("group=[[]]", "group=[[]]"),
        ('only=[["isl",[512,7]]]', "only="),
        ("only=[null,3]&limits=7&at=-1&stat=__proto__&y=constructor&logx=maybe", "and 1 more"),
        ('limits=[["ttft","median","1"],["tpot","median",null]]', "limits="),
        ("cell=constructor&label=toString", "label=toString; cell=constructor"),
        ("against=nobody", "against=nobody"),
        ("x=" + "a" * 70000, "too long"),
        ("%%%&=&&;", "Ignored"),
    ],
)
def test_what_a_link_asks_for_and_the_report_has_not_is_ignored_with_a_word(page, fragment, ignored):
    usual = view_of(page)["chosen"]
    address = page.driver.current_url
    page.driver.get("about:blank")
    page.driver.get(f"{address}#{fragment}")
    assert ignored in page.one("#link-note").text
    assert page.driver.execute_script("return window.pwned") is None
    if "only" not in fragment:
        assert view_of(page)["chosen"] == usual


def test_a_place_on_the_page_is_no_view(page):
    page.choose("x-axis", "TPOT")
    page.driver.execute_script("location.hash = 'cells'")
    assert page.chosen("x-axis") == "TPOT"
    assert not page.one("#link-note").is_displayed()


@pytest.fixture
def hostile(open_page, tmp_path) -> Iterator[object]:
    cells = [
        MadeCell(
            {"backend": f"{HOSTILE}{n % 2}", HOSTILE: f"{HOSTILE}{n}"},
            {"tpot": [[0.1 * n] * 6], "tok_s_gpu": [[1.0 * n] * 6]},
        )
        for n in range(1, 11)
    ]
    run = load_run(make_run(tmp_path, cells, sweep={"pareto": {"x": "tpot", "y": "tok_s_gpu", "group": ["backend"]}}))
    return open_page(write_report([run], ["html"], tmp_path / "out")[0])


def test_hostile_names_are_text_in_menus_tables_and_links(hostile):
    for menu in hostile.all("#filters .menu"):
        menu.find_element("css selector", "summary").click()
    hostile.driver.execute_script("document.querySelectorAll('#filters .menu input')[0].click()")
    assert "⟨U+202E⟩" in hostile.one("#groups").text
    assert "only=" in hostile.driver.current_url
    before = view_of(hostile)
    hostile.driver.refresh()
    assert view_of(hostile) == before
    assert not hostile.one("#link-note").is_displayed()
    assert hostile.driver.execute_script("return window.pwned") is None
    assert hostile.all("main img") == []


def test_ten_cells_and_thousands_filter_limit_and_compare_alike(open_page, tmp_path):
    for count, make in ((10, make_run), (3000, make_large_run)):
        run = load_run(make(tmp_path / str(count), served(count)))
        page = open_page(write_report([run], ["html"], tmp_path / str(count))[0])
        page.only("concurrency", "1", "4", "8")
        type_number(page, "limit-1", "1.6")
        page.show_all_rows()
        wide = run.wide().query("concurrency in [1, 4, 8] and outcome == 'ok' and tpot <= 1.6e-3")
        page.click('th[data-key="frontier"] button')
        assert page.marked("●") == marks(run, wide)[0]
        members = wide[wide["backend"] == "mine"]
        assert told(page)["mine"][0] == pytest.approx(
            area(turned(run, members, "tok_s_user"), turned(run, members, "tok_s_gpu"))
        )


def test_a_beaten_point_tells_what_beats_it_and_by_how_much(page, run):
    metrics = run.metrics()
    found = frontier(run.wide(), metrics["tok_s_user"], metrics["tok_s_gpu"])
    beaten = found[~found["on_frontier"]].sort_values("margin")
    for row, cell in [*beaten.head(3).iterrows(), *beaten.tail(3).iterrows()]:
        tooltip = page.driver.execute_script(
            """
            const points = [{ customdata: arguments[0] }];
            document.getElementById("plot").emit("plotly_hover", { points, event: { clientX: 9, clientY: 9 } });
            return document.getElementById("tooltip").innerText;
            """,
            row,
        )
        margin = cell["margin"]
        share = f"{100 * margin:.{1 if margin < 0.1 else 0}f}% better"
        assert f"Dominated by {cell['dominated_by']}, which is " in tooltip
        assert (share if margin < 1 else f"{margin + 1:.3g}× as good") in tooltip
        assert ("Within the intervals" in tooltip) == cell["near"]


def test_near_ties_are_ringed_and_said(page, run):
    near = len(marks(run, run.wide())[1])
    assert near
    assert f"{near} more too close to call" in page.one("#frontier-line").text
    rings = page.driver.execute_script("""
        return document.getElementById("plot").data.filter((trace) => trace.marker?.symbol === "circle-open")
          .reduce((sum, trace) => sum + trace.x.length, 0);
    """)
    assert rings == near


def test_the_controls_lay_out_on_a_telephone(page):
    override = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", override)
    try:
        page.driver.execute_script("document.querySelectorAll('#filters .menu')[1].open = true")
        fits = "return document.documentElement.scrollWidth <= innerWidth && innerWidth === 360"
        WebDriverWait(page.driver, 10).until(lambda driver: driver.execute_script(fits))
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_labels_on_the_frontier_do_not_cover_one_another(page):
    boxes = page.driver.execute_script("""
        return [...document.querySelectorAll("#plot .textpoint text")].filter((text) => text.textContent)
          .map((text) => text.getBoundingClientRect())
          .map(({ left, right, top, bottom }) => [left, right, top, bottom]);
    """)
    assert len(boxes) > 5
    slack = 2  # pixels: a font's box is wider than its letters
    for place, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:place]:
            assert (
                right - slack <= other[0]
                or other[1] - slack <= left
                or bottom - slack <= other[2]
                or other[3] - slack <= top
            )


def test_every_control_shows_that_it_has_the_focus(page):
    page.one("#x-axis").send_keys(Keys.NULL)
    for control in page.all("#plot-section select, #plot-section input, #plot-section summary, #plot-section button"):
        if not control.is_displayed() or control.get_attribute("disabled"):
            continue
        outline = page.driver.execute_script(
            """
            arguments[0].focus({ focusVisible: true });
            return getComputedStyle(arguments[0]).outlineStyle;
        """,
            control,
        )
        assert outline == "solid"
