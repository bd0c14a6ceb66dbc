"""Chromium for the pages that people look at. Tests that need it are skipped where it is missing."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]


@pytest.fixture
def open_tab() -> Iterator[Callable[..., Any]]:
    """Opens an address on a phone with a touch screen; a complaint in the browser's console fails the test.

    It needs the package playwright, and Chromium on the PATH or named by $CHROMIUM.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)

        def open_(address: str, **how: Any) -> Any:
            phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
            tab = browser.new_context(**phone | how).new_page()
            tab.on("console", lambda message: complaints.append(message.text))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.goto(address)
            return tab

        yield open_
        browser.close()
    expected = ("net::ERR_CONNECTION", " 503 ")  # a server that has ended, and one that has nothing yet
    assert [text for text in complaints if not any(words in text for words in expected)] == []
