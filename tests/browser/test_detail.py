"""The dialog of one cell: what it tells of it, and how it is opened, read and closed."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import MadeCell, make_run
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from gpubench.analysis.run import Run, load_run
from gpubench.records import Frame, Hazard, Outcome, PointerState
from gpubench.report import write_report

pytestmark = pytest.mark.browser

HOSTILE = '<script>window.pwned = 1</script><img src=x onerror="window.pwned = 2">"\'`\u2028\u202eevil\n${1}'


def trial(seconds: float, count: int) -> list[float]:
    return [seconds * (1 + 0.001 * (number % 7)) for number in range(count)]


def hazard(number: int) -> Hazard:
    site = Frame("app.py", number, HOSTILE)
    return Hazard(f"kernel_{number}{HOSTILE}", "scratch", 0x7F00, PointerState.FREED, allocated_at=site)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    cells = [
        MadeCell({"batch": 1}, {"step_time": [trial(1e-5, 100), trial(2e-5, 100), [3e-5] * 10]}),
        MadeCell({"batch": 2}, {"step_time": [[2e-5] * 3]}, hazards=[hazard(number) for number in range(15)]),
        MadeCell({"batch": 4}, outcome=Outcome.CRASH, reason=HOSTILE, stderr=HOSTILE + "x" * 10_000),
        MadeCell({"batch": 8}, outcome=Outcome.SKIPPED, reason="too large"),
    ]
    return load_run(make_run(tmp_path_factory.mktemp("runs"), cells))


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    return write_report([run], ["html"], tmp_path_factory.mktemp("page"))[0]


@pytest.fixture
def page(written, open_page):
    return open_page(written)


def open_cell(page, cell: str) -> str:
    page.click(f'#table tr[data-cell="{cell}"] td:nth-last-child(1)')
    return page.one("#detail").text


def test_a_figure_comes_with_interval_timer_number_of_samples_and_a_strip_of_them_by_trial(page):
    open_cell(page, "cell_000")
    heads = [head.text for head in page.all("#detail table:first-of-type th")]
    assert heads[1:6] == ["median", "95% interval", "timer", "samples", "by trial"]
    row = page.one("#detail tbody tr")
    assert "cuda_event 210" in row.text
    strip = page.one("#detail svg.strip")
    assert "50 of 210 samples of 3 trials, from 10.0 µs to 30.0 µs" in strip.get_attribute("aria-label")
    by_trial = [len(group.find_elements(By.TAG_NAME, "circle")) for group in strip.find_elements(By.TAG_NAME, "g")]
    assert by_trial == [20, 20, 10]


def test_the_strip_puts_samples_where_they_are_between_the_least_and_the_greatest(page):
    open_cell(page, "cell_000")
    heights = page.driver.execute_script("""
        return [...document.querySelectorAll("#detail svg.strip g")].map((trial) =>
          [...trial.querySelectorAll("circle")].map((circle) => Number(circle.getAttribute("cy"))));
    """)
    least, greatest = max(heights[0]), min(heights[2])
    assert (least, greatest) == (27, 3)
    share = (2e-5 - 1e-5) / (3e-5 - 1e-5)
    assert max(heights[1]) == pytest.approx(27 - 24 * share, abs=0.4)


def test_samples_that_are_all_the_same_lie_in_the_middle(page):
    open_cell(page, "cell_001")
    heights = {circle.get_attribute("cy") for circle in page.all("#detail svg.strip circle")}
    assert heights == {"15.0"}


def test_stale_addresses_are_told_with_their_number(page):
    text = open_cell(page, "cell_001")
    assert "Stale addresses in its graphs" in text
    assert len(page.all("#detail .hazards li")) == 13
    assert "and 3 more" in text
    assert "kernel_0<script>" in text


def test_a_dead_cell_tells_its_log_and_leads_to_its_signature(page):
    text = open_cell(page, "cell_002")
    assert "in stage measure" in text
    log = page.one("#detail details pre").get_attribute("textContent")
    assert log.endswith("x" * 100)
    assert len(log) <= 4096
    link = page.one("#detail a")
    page.driver.execute_script("arguments[0].click()", link)
    assert not page.one("#detail").is_displayed()
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("id") == f"signature-{link.get_attribute('textContent')}"


def test_a_skipped_cell_says_why_and_has_no_signature(page):
    assert "too large" in open_cell(page, "cell_003")
    assert page.all("#detail a") == []


def test_the_command_is_copied_by_a_button(page):
    open_cell(page, "cell_002")
    wanted = "gpubench reproduce mla-decode-20261121-093000 cell_002"
    assert page.one("#detail pre.command").text == wanted
    page.one("#detail button.copy").click()
    page.driver.execute_async_script("const done = arguments[0]; setTimeout(done, 200)")
    assert page.one("#detail button.copy").text == "Copied"


def test_by_keyboard_a_row_opens_its_cell_escape_closes_it_and_the_focus_returns(page):
    button = page.one('#table tr[data-cell="cell_001"] button.link')
    page.driver.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    dialog = page.one("#detail")
    assert dialog.is_displayed()
    inside = "return document.getElementById('detail').contains(document.activeElement)"
    assert page.driver.execute_script(inside)
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert page.driver.switch_to.active_element == button


def test_what_users_wrote_stays_text_in_the_dialog(page):
    for cell in ("cell_001", "cell_002"):
        open_cell(page, cell)
        assert page.all("#detail script, #detail img") == []
        assert "\u202e" not in page.one("#detail").get_attribute("textContent")
        page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert page.driver.execute_script("return window.pwned") is None
