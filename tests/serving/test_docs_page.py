"""The pages behind the real HTTP side, in headless Chromium: documentation and a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.openapi import openapi_document
from tests.serving.page_browser import (
    CHROMEDRIVER,
    CHROMIUM,
    console_errors,
    hosts_asked,
    low_contrast,
    open_page,
    sideways_scroll,
    start_chromium,
    text,
    wait_for,
    wait_for_answer,
)
from tests.serving.stand_in_engine import MODEL, StandInEngine, listening, service

TOKEN = "correct-horse-battery-staple"
DOCUMENT = openapi_document("fmlp", Limits(), needs_token=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip("no chromium and chromedriver found: apt-get install chromium chromium-driver")
    pytest.importorskip("selenium", reason="selenium is needed to drive Chromium")
    chromium = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.quit()


@pytest.fixture
def address() -> Iterator[str]:
    with listening(service(StandInEngine())) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address of a service that asks for a token."""
    with listening(service(StandInEngine(), token=TOKEN.encode())) as port:
        yield f"http://127.0.0.1:{port}/"


def open_docs(browser: Any, address: str, width: int = 1280, dark: bool = False) -> None:
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(f"{address}docs")


def operations(browser: Any) -> list[str]:
    script = "return [...document.querySelectorAll('details')].map((one) => one.id)"
    return list(browser.execute_script(script))


def test_the_documentation_shows_every_operation_and_asks_nobody_else(
    browser: Any, address: str
) -> None:
    open_docs(browser, address)
    wait_for(lambda: operations(browser), "nothing was rendered")
    documented = {
        operation["operationId"]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
    }
    assert sorted(operations(browser)) == sorted(documented)
    browser.execute_script(
        "for (const one of document.querySelectorAll('details')) one.open = true"
    )
    shown = text(browser, "operations")
    for word in ("image/png", "Inference-Header-Content-Length", "allowed_accuracy_drop", "503"):
        assert word in shown
    assert "undefined" not in shown and "[object Object]" not in shown
    assert hosts_asked(browser) <= {address.split("/")[2], address.split("/")[2].split(":")[0]}
    assert console_errors(browser) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_documentation_is_readable_wide_and_narrow_light_and_dark(
    browser: Any, address: str, width: int, dark: bool
) -> None:
    open_docs(browser, address, width, dark)
    wait_for(lambda: operations(browser), "nothing was rendered")
    browser.execute_script(
        "for (const one of document.querySelectorAll('details')) one.open = true"
    )
    assert sideways_scroll(browser) <= 0
    assert low_contrast(browser) == []
    assert summaries_broken_in_a_word(browser) == []


def summaries_broken_in_a_word(browser: Any) -> list[str]:
    """Words of what operations do that begin on one line and end on another."""
    script = """
    const out = [];
    for (const one of document.querySelectorAll('summary .muted')) {
      const node = one.firstChild, range = document.createRange();
      for (const word of node.data.matchAll(/\\S+/g)) {
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        if (range.getClientRects().length > 1) out.push(word[0]);
      }
    }
    return out;"""
    return list(browser.execute_script(script))


def show_token(browser: Any) -> None:
    """Wrong tokens and then the right one, on the page that asks for it."""
    for wrong in ("wrong", "a\N{EURO SIGN}b"):  # no header can hold the second
        browser.find_element("id", "gate-token").send_keys("\ue009a", "\ue000", wrong, "\ue007")
        wait_for(lambda: "accept" in text(browser, "gate-problem"), "no refusal was shown")
    assert low_contrast(browser) == [] and sideways_scroll(browser) <= 0
    browser.find_element("id", "gate-token").send_keys("\ue009a", "\ue000", TOKEN, "\ue007")


def test_the_documentation_asks_for_the_token_where_there_is_one(
    browser: Any, guarded: str
) -> None:
    open_docs(browser, guarded)
    show_token(browser)
    wait_for(lambda: operations(browser), "the token was not used")
    assert console_errors(browser, ignored="401") == []


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_works_with_a_token_that_is_typed_in_and_kept_nowhere(
    browser: Any, guarded: str, dark: bool
) -> None:
    """Without it not even the page's own files are to be had; nothing else is asked or broken."""
    open_page(browser, "about:blank", 360, dark, asks=False)
    browser.get(guarded)
    show_token(browser)
    wait_for(
        lambda: browser.find_elements("id", "facts") and MODEL.version in text(browser, "facts"),
        "the page never came",
    )
    samples = wait_for(
        lambda: browser.find_elements("css selector", "#samples button"), "there are no samples"
    )
    samples[7].click()
    assert "%" in wait_for_answer(browser)
    assert not browser.find_element("id", "token-form").is_displayed()
    kept = """return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,
        location.href, window.name, window.fmlpToken, document.documentElement.outerHTML])"""
    assert TOKEN not in browser.execute_script(kept)
    assert hosts_asked(browser) == {guarded.split("/")[2]}
    assert console_errors(browser, ignored="401") == []
    assert low_contrast(browser) == []


def test_the_page_for_people_gets_its_answer(browser: Any, address: str) -> None:
    open_page(browser, address)
    assert MODEL.version in text(browser, "facts")
    wait_for(
        lambda: browser.find_elements("css selector", "#samples button"), "there are no samples"
    )[7].click()
    assert "%" in wait_for_answer(browser)
    assert console_errors(browser) == []
