"""The page in a real browser: needs the package playwright, and Chromium on the PATH or named by $CHROMIUM."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.recorded import Recorded
from experiments.page import write_page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--no-zygote", "--single-process", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture
def tab(results: Path, tmp_path: Path) -> Iterator[Any]:
    """The page on a phone without a network."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    write_page([Recorded.read(results)], tmp_path / "report.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        tab = browser.new_page(viewport={"width": 390, "height": 800}, offline=True)
        complaints: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto((tmp_path / "report.html").as_uri())
        tab.wait_for_selector("body[data-ready=yes]")
        yield tab
        assert complaints == []
        browser.close()


def test_filters_change_the_plots_and_the_page_fits_a_phone(tab: Any) -> None:
    def lines() -> list[str]:
        return tab.evaluate("document.getElementById('curves').data.map((trace) => trace.name).filter(Boolean)")

    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert lines() == ["FedAvg", "</script>"]
    assert tab.evaluate("document.getElementById('curves').layout.shapes.map((shape) => shape.x0)") == [2.5]
    assert tab.evaluate("document.getElementById('map').data[0].z") == [[50, 70], [70, 90]]
    tab.click("#methods button:has-text('FedAvg')")
    assert lines() == ["</script>"]
    assert tab.locator("#summary tbody tr").count() == 1
    assert not tab.locator("#heat").is_visible()  # only FedAvg has devices.csv
    tab.select_option("#x", "mb")
    assert tab.evaluate("document.getElementById('curves').data.at(-1).x") == [3, 6]
    tab.fill("#search", "fed")
    assert tab.locator("#methods button").all_inner_texts() == ["FedAvg"]
    tab.click("#all")
    assert lines() == ["FedAvg", "</script>"]
