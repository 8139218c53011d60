"""The pages in headless Chromium: nothing asked, nothing complained of, every table to be seen."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_info, make_run

from distributed_fmlp.data import Dataset
from distributed_fmlp.report import build_report
from distributed_fmlp.report.__main__ import main
from distributed_fmlp.run_directory import load_run
from tests.serving.page_browser import (
    CHROMEDRIVER,
    CHROMIUM,
    console_errors,
    low_contrast,
    sideways_scroll,
    start_chromium,
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None, reason="Chromium and its driver are not installed"
)

# Each table's name, its size, and whether it can be reached: it is inside the page, or inside a
# box that scrolls by itself.
TABLES = """
return [...document.querySelectorAll('table')].map((table) => {
  const at = table.getBoundingClientRect(), box = table.closest('.wide').getBoundingClientRect();
  const cells = [...table.querySelectorAll('th, td')];
  return {name: table.ariaLabel, width: at.width, height: at.height,
          visible: table.checkVisibility(), rows: table.tBodies[0].rows.length,
          inside: box.left >= 0 && box.right <= document.documentElement.clientWidth + 0.5,
          text: table.innerText.length, cells: cells.length}; });
"""
# Texts of a chart that lie over each other or outside of it.
COLLISIONS = """
const found = [];
for (const svg of document.querySelectorAll('svg.chart:not(.swatch)')) {
  if (!svg.checkVisibility()) continue;
  const frame = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll('text')].map((e) => [e.textContent, e.getBoundingClientRect()]);
  for (const [text, a] of boxes)
    if (a.left < frame.left - 2 || a.right > frame.right + 2) found.push('outside: ' + text);
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [s, a] = boxes[i], [t, b] = boxes[j];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 3) found.push(svg.ariaLabel + ': ' + s + ' / ' + t);
  }
}
return found;
"""  # noqa: E501


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> dict[str, Path]:
    """A run of four learning rates by five seeds, one with images, one unfinished, a comparison."""
    place = tmp_path_factory.mktemp("runs")
    data = make_info([])["dataset"]
    images = {
        **data, "name": "digits", "sha256": digits.sha256, "class_names": list(digits.class_names),
    }  # fmt: skip
    make_run(place / "seeds", seeds=(0, 1, 2, 3, 4))
    make_run(place / "digits", epochs=5, images=360, dataset=images)
    make_run(place / "going", status="running", rates=(0.005, 0.001), name="a" * 100)
    (place / "going/trials/lr_0.005_seed_0/trial.json").unlink()
    make_run(place / "other", rates=(0.001, 0.003), name="long name " + "x" * 60)
    for name in ("seeds", "digits", "going"):
        build_report(load_run(place / name))
    together = place / "comparison.html"
    assert main([str(place / "seeds"), str(place / "other"), "--out", str(together)]) == 0
    found = {name: place / name / "report.html" for name in ("seeds", "digits", "going")}
    return {**found, "comparison": together}


def open_file(browser: Any, page: Path, width: int, dark: bool) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())


def addresses_asked(browser: Any) -> set[str]:
    """The address of every request since the page was opened, but for data in the page itself."""
    rows = (json.loads(row["message"])["message"] for row in browser.get_log("performance"))
    asked = {
        row["params"]["request"]["url"]
        for row in rows
        if row["method"] == "Network.requestWillBeSent"
    }
    return {address for address in asked if not address.startswith("data:")}


@pytest.mark.parametrize("name", ["seeds", "digits", "going", "comparison"])
@pytest.mark.parametrize(
    ("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)]
)
def test_a_page_shows_every_table_and_asks_nobody(
    browser: Any, pages: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    open_file(browser, pages[name], width, dark)
    assert sideways_scroll(browser) <= 0
    browser.execute_script(
        "for (const each of document.querySelectorAll('details')) each.open = true"
    )
    tables = browser.execute_script(TABLES)
    assert len(tables) >= 3
    for table in tables:
        assert table["visible"] and table["inside"] and table["rows"] >= 1, table
        assert table["width"] > 60 and table["height"] > 40 and table["text"] > table["rows"]
    assert sideways_scroll(browser) <= 0
    assert browser.execute_script(COLLISIONS) == []
    assert low_contrast(browser) == []
    unloaded = "return [...document.images].filter((i) => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(unloaded) == 0
    assert console_errors(browser) == []
    assert addresses_asked(browser) == {pages[name].as_uri()}


def test_the_tables_of_the_page_are_all_of_them(browser: Any, pages: dict[str, Path]) -> None:
    open_file(browser, pages["seeds"], 1280, False)
    names = browser.execute_script(
        "return [...document.querySelectorAll('table')].map((t) => t.ariaLabel)"
    )
    rates = 4
    for start, count in (
        ("Each learning rate", 1), ("The epoch chosen on validation", 1), ("The last epoch", 1),
        ("Which differences are real", 1), ("Epochs", rates), ("Every epoch", rates),
        ("Confusion matrix", rates), ("Each class", rates), ("Classes most often confused", 1),
        ("Confidence and accuracy", 1), ("Cost", 1), ("What the published tables don't say", 1),
    ):  # fmt: skip
        assert sum(name.startswith(start) for name in names) == count, start


def test_without_scripts_the_folded_tables_open_by_keyboard_alone(
    browser: Any, pages: dict[str, Path]
) -> None:
    open_file(browser, pages["seeds"], 1280, False)
    summary = browser.find_element("css selector", "#summary details summary")
    summary.send_keys(" ")
    assert browser.execute_script("return document.querySelector('#summary details').open")


def test_links_lead_to_sections_that_are_there(browser: Any, pages: dict[str, Path]) -> None:
    open_file(browser, pages["digits"], 1280, False)
    lost = """return [...document.querySelectorAll('a[href^="#"]')].map((a) => a.hash.slice(1))
        .filter((id) => !document.getElementById(id))"""
    assert browser.execute_script(lost) == []
    doubled = """const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
        return ids.filter((id, i) => ids.indexOf(id) !== i)"""
    assert browser.execute_script(doubled) == []


def test_a_page_prints_on_white_paper_whatever_the_screen(
    browser: Any, pages: dict[str, Path]
) -> None:
    open_file(browser, pages["seeds"], 1280, True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [
        {"name": "prefers-color-scheme", "value": "dark"}]})  # fmt: skip
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(colour) == "rgb(255, 255, 255)"
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"]
    assert base64.b64decode(pdf).startswith(b"%PDF")
