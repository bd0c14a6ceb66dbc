"""The page in a real browser."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.analysis.recorded import Recorded
from experiments.page import server, write_page
from tests.experiments.page.conftest import METHODS, record, writer_of

OpenTab = Callable[..., Any]


@pytest.fixture
def report(results: Path, tmp_path: Path) -> str:
    write_page([Recorded.read(results)], tmp_path / "report.html")
    return (tmp_path / "report.html").as_uri()


def ready(tab: Any) -> Any:
    tab.wait_for_selector("body[data-ready=yes]")
    return tab


def lines(tab: Any) -> list[str]:
    return tab.evaluate("document.getElementById('curves').data.map((trace) => trace.name).filter(Boolean)")


def test_filters_change_the_plots_and_the_page_fits_a_phone(report: str, open_tab: OpenTab) -> None:
    tab = ready(open_tab(report, offline=True))
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.title() == "toy - DriftFed"
    assert lines(tab) == ["FedAvg", "</script>"] == tab.locator("#curves-legend span span").all_inner_texts()
    assert tab.evaluate("document.getElementById('curves').layout.shapes.map((shape) => shape.x0)") == [2.5]
    assert "data drift" in tab.inner_text("#curves-note")
    assert tab.evaluate("document.getElementById('map').data[0].z") == [[50, 70], [70, 90]]
    assert {"rounds", "accuracy, %"} <= set(tab.locator("#curves .g-xtitle, #curves .g-ytitle").all_text_contents())
    tab.click("#methods button:has-text('FedAvg')")
    assert lines(tab) == ["</script>"]
    assert tab.locator("#summary tbody tr").count() == 1
    assert not tab.locator("#heat").is_visible()  # only FedAvg has devices.csv
    tab.select_option("#x", "mb")
    assert tab.evaluate("document.getElementById('curves').data.at(-1).x") == [3, 6]
    assert "data drift" not in tab.inner_text("#curves-note")
    tab.fill("#search", "fed")
    assert tab.locator("#methods button").all_inner_texts() == ["FedAvg"]
    tab.click("#all")
    assert lines(tab) == ["FedAvg", "</script>"]
    tab.fill("#search", "")
    tab.click("#none")
    assert lines(tab) == [] and tab.inner_text("#summary") == "No method is chosen."


def test_the_page_needs_no_mouse(report: str, open_tab: OpenTab) -> None:
    tab = ready(open_tab(report, has_touch=False, is_mobile=False))
    tab.focus("#methods button:has-text('FedAvg')")
    for shown in (["</script>"], ["FedAvg", "</script>"]):  # the button keeps the focus
        tab.keyboard.press("Enter")
        assert lines(tab) == shown
        assert tab.evaluate("document.activeElement.ariaPressed") == str(len(shown) == 2).lower()
    tab.focus("#summary th button")
    for order in ("descending", "ascending", None):
        tab.keyboard.press("Enter")
        assert tab.evaluate("document.activeElement.closest('th').ariaSort") == order


def test_a_finger_scrolls_over_a_plot(report: str, open_tab: OpenTab) -> None:
    tab = ready(open_tab(report))
    tab.locator("#trade").scroll_into_view_if_needed()
    box, before = tab.locator("#trade").bounding_box(), tab.evaluate("scrollY")
    pen, x, y = tab.context.new_cdp_session(tab), box["x"] + 150, min(600, box["y"] + 200)

    def touch(kind: str, *points: float) -> None:
        places = [{"x": x, "y": at} for at in points]
        pen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", y)
    for step in range(1, 21):
        touch("touchMove", y - 10 * step)
    touch("touchEnd")
    tab.wait_for_function("(before) => scrollY > before + 50", arg=before)


def test_a_run_appears_while_it_goes_on(tmp_path: Path, open_tab: OpenTab) -> None:
    folder, chosen = tmp_path / "live", "document.querySelectorAll('#methods .on').length"
    with server(folder, 0) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        tab = ready(open_tab(f"http://127.0.0.1:{web.server_port}"))
        assert tab.title() == "no results yet - DriftFed"
        with writer_of(folder, [*METHODS, "eclm"]) as writer:
            record(writer, "fedavg")
            tab.wait_for_function(f"{chosen} === 1")
            assert tab.title() == "live - DriftFed" and tab.inner_text("h1") == "live"
            record(writer, "</script>")
            tab.wait_for_function(f"{chosen} === 2")  # the reader has chosen nothing, so all are shown
            assert lines(tab) == ["FedAvg", "</script>"]
            tab.click("#methods button:has-text('FedAvg')")
            record(writer, "eclm")
            tab.wait_for_selector("#methods button:has-text('ECLM')")
            assert lines(tab) == ["</script>"]  # now the choice stays
        web.shutdown()
    tab.wait_for_function("document.getElementById('state').textContent.includes('`watch` has ended')")
