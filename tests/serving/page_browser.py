"""Driving the page in headless Chromium: functions that take a browser and the page's address."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")


def start_chromium(profile: Path) -> Any:
    """A headless Chromium with its own empty profile and a camera that shows a test pattern."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", "use-fake-device-for-media-stream", f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    """Return the condition's first true value; fail with `what` after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.03)
    pytest.fail(f"after {seconds} s: {what}")


def open_page(
    browser: Any, address: str, width: int = 1280, dark: bool = False, *, asks: bool = True
) -> None:
    """Open the page at this width and colour scheme; forget what the logs held before.

    `asks`: wait until it has asked for the model.
    """
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)
    if asks:
        wait_for(lambda: "asking" not in text(browser, "facts"), "the model was never asked for")


def text(browser: Any, name: str) -> str:
    """The text shown in the element with this id."""
    return str(browser.execute_script(f"return document.getElementById('{name}').innerText"))


def bars(browser: Any) -> dict[str, tuple[str, float]]:
    """Class name to the percentage as written and the bar's width as a fraction of its track."""
    script = """return [...document.querySelectorAll('#bars tbody tr')].map((row) => {
        const bar = row.querySelector('.bar');
        return [row.cells[0].innerText, row.querySelector('.value').innerText,
                parseFloat(bar.style.getPropertyValue('--part'))]; });"""
    return {name: (value, part) for name, value, part in browser.execute_script(script)}


def wait_for_answer(browser: Any, different_from: str | None = None) -> str:
    """Wait for a class to be named and for quiet; return the verdict as shown."""

    def named() -> str | None:
        shown = text(browser, "verdict")
        busy = browser.execute_script("return document.getElementById('result').ariaBusy")
        return shown if "%" in shown and busy != "true" and shown != different_from else None

    return str(wait_for(named, f"no class was named: {text(browser, 'problem')!r}"))


def choose_file(browser: Any, path: Path) -> None:
    """Pick a file as the file dialogue would."""
    browser.find_element("css selector", "[name=mode][value=picture]").click()
    browser.find_element("id", "file").send_keys(str(path))


def drop_file(browser: Any, body: bytes, kind: str, name: str) -> None:
    """Drop a file on the page."""
    script = """const [bytes, type, name] = arguments; const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, {type}));
        for (const step of ['dragover', 'drop']) document.querySelector('#stage').dispatchEvent(
          new DragEvent(step, {dataTransfer: data, bubbles: true, cancelable: true}));"""
    browser.execute_script(script, list(body), kind, name)


def paste_file(browser: Any, body: bytes, kind: str) -> None:
    """Paste a picture from the clipboard."""
    script = """const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(arguments[0])], '', {type: arguments[1]}));
        document.body.dispatchEvent(
          new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));"""
    browser.execute_script(script, list(body), kind)


def draw_stroke(browser: Any, points: list[tuple[int, int]], pointer: str = "mouse") -> None:
    """Draw with mouse, touch or pen through these points, in pixels from the surface's centre."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    pad = browser.find_element("id", "pad")
    actions = ActionBuilder(browser, mouse=PointerInput(pointer, f"the {pointer}"), duration=20)
    first, *others = points
    actions.pointer_action.move_to(pad, *first).pointer_down()
    for point in others:
        actions.pointer_action.move_to(pad, *point)
    actions.pointer_action.pointer_up()
    actions.perform()


def press_keys(browser: Any, *keys: str) -> None:
    """Type on whatever has the focus."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def tab_to(browser: Any, selector: str, most: int = 40) -> None:
    """Press Tab until the element has the focus; fail when it can't be reached."""
    for _ in range(most):
        press_keys(browser, "\ue004")
        if browser.execute_script(f"return document.activeElement.matches({json.dumps(selector)})"):
            return
    pytest.fail(f"{selector} is not reached with Tab")


def console_errors(browser: Any, ignored: str = r"^$") -> list[str]:
    """What the console said at level warning or worse, except what matches `ignored`."""
    rows = [row for row in browser.get_log("browser") if row["level"] in ("SEVERE", "WARNING")]
    return [row["message"] for row in rows if not re.search(ignored, row["message"])]


def hosts_asked(browser: Any) -> set[str]:
    """The host and port of every request the page made since it was opened."""
    rows = (json.loads(row["message"])["message"] for row in browser.get_log("performance"))
    urls = [
        row["params"]["request"]["url"]
        for row in rows
        if row["method"] == "Network.requestWillBeSent"
    ]
    return {urlsplit(url).netloc for url in urls if urlsplit(url).scheme not in ("data", "blob")}


def sideways_scroll(browser: Any) -> int:
    """By how many CSS pixels the page is wider than its window."""
    return int(
        browser.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
    )


def low_contrast(browser: Any) -> list[str]:
    """Visible texts whose contrast with their background is below 4.5 (WCAG 2.2, 1.4.3)."""
    script = """
    const parse = (c) => c.match(/[\\d.]+/g).map(Number);
    const light = (c) => { const [r, g, b] = parse(c).slice(0, 3).map((v) => { v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(
      getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1)
      return getComputedStyle(e).backgroundColor; } return 'rgb(255, 255, 255)'; };
    const out = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let n; (n = walk.nextNode()); ) { const e = n.parentElement;
      if (!n.data.trim() || !e.checkVisibility() || e.closest('.unseen, noscript')) continue;
      const a = light(getComputedStyle(e).color), b = light(ground(e));
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5) out.push(n.data.trim() + ' ' + ratio.toFixed(2)); }
    return out;"""
    return list(browser.execute_script(script))


def camera_permission(browser: Any, address: str, setting: str) -> None:
    """Set what the browser answers when the page asks for the camera: granted or denied."""
    wanted = {"permission": {"name": "camera"}, "setting": setting, "origin": address.rstrip("/")}
    browser.execute_cdp_cmd("Browser.setPermission", wanted)
