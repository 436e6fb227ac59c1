"""Chromium as a user has it, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000", "--hide-scrollbars"]


@dataclass(frozen=True)
class Page:
    """A report that is open, in the words of someone who looks at it."""

    driver: webdriver.Chrome

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def choose(self, control: str, text: str) -> None:
        Select(self.one(f"#{control}")).select_by_visible_text(text)

    def chosen(self, control: str) -> str:
        return Select(self.one(f"#{control}")).first_selected_option.text

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].click()", self.one(selector))

    def only(self, axis: str, *values: str) -> None:
        """Keep these values of an axis alone, by its menu."""
        menu = self.one(f"#filter-{axis}")
        self.driver.execute_script("arguments[0].open = true", menu)
        WebDriverWait(self.driver, 10).until(lambda _: menu.find_elements(By.CSS_SELECTOR, "label"))
        menu.find_elements(By.CSS_SELECTOR, "button")[1].click()
        for label in menu.find_elements(By.CSS_SELECTOR, "label"):
            if label.find_element(By.CSS_SELECTOR, "span").text in values:
                label.click()
        self.driver.execute_script("arguments[0].open = false", menu)

    def show_all_rows(self) -> None:
        if self.all("#pager select") and self.one("#pager").is_displayed():
            Select(self.one("#pager select")).select_by_value("1000")

    def table(self) -> list[dict[str, str]]:
        """The rows of the table of cells that are on the page now: text by column, read at one go."""
        return self.driver.execute_script("""
            const keys = [...document.querySelectorAll("#table th")].map((head) => head.dataset.key);
            return [...document.querySelectorAll("#table tbody tr")].map((row) =>
              Object.fromEntries([...row.cells].map((cell, place) => [keys[place], cell.textContent])));
        """)

    def marked(self, mark: str) -> set[str]:
        """The cells with this mark: ● on the frontier, ≈ near it."""
        return {row["cell"] for row in self.table() if row["frontier"] == mark}

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        missing = "chromium and chromedriver are not installed (apt-get install chromium chromium-driver)"
        if os.environ.get("CI"):
            pytest.fail(f"{missing}, and CI is set: the page must be tested")
        pytest.skip(f"{missing}: the page was not tested in a browser")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield browser
    browser.quit()


@pytest.fixture
def open_page(chromium):
    """Open a report from disk, wait until its scripts have run, and fail the test if they complain."""

    def open_(path: Path) -> Page:
        chromium.get(path.as_uri())
        WebDriverWait(chromium, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))
        return Page(chromium)

    chromium.get_log("browser")  # what earlier pages left
    yield open_
    assert Page(chromium).errors() == []
