"""The page for people: static checks, and headless Chromium against a small stand-in service."""

from __future__ import annotations

import io
import json
import re
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from tests.serving.page_browser import (
    CHROMEDRIVER,
    CHROMIUM,
    bars,
    camera_permission,
    choose_file,
    console_errors,
    draw_stroke,
    drop_file,
    hosts_asked,
    low_contrast,
    open_page,
    paste_file,
    press_keys,
    sideways_scroll,
    start_chromium,
    tab_to,
    text,
    wait_for,
    wait_for_answer,
)

PAGE = Path(__file__).parents[2] / "distributed_fmlp" / "serving" / "page"
CLASS_NAMES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

# ---- the stand-in service


@dataclass
class StandIn:
    """What the page's contract asks of a service; keeps what it was asked."""

    token: str = ""
    version: str = "3fa9c1d2"
    refuse: list[tuple[int, str]] = field(default_factory=list)  # answered first, one a request
    predicts: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    def facts(self) -> dict[str, Any]:
        return {
            "name": "fmlp", "version": self.version, "learning_rate": 0.001, "seed": 0, "epoch": 17,
            "dataset": "fashion-mnist", "dataset_sha256": "ab" * 32, "source_commit": "c0ffee" * 6,
            "val_accuracy": 0.9032, "test_accuracy": 0.8971, "class_names": CLASS_NAMES,
        }  # fmt: skip

    def predict(self, body: bytes) -> dict[str, Any]:
        """Ten probabilities from a fixed random projection of the picture's 784 pixels."""
        picture = Image.open(io.BytesIO(body)).convert("L").resize((28, 28), Image.Resampling.BOX)
        pixels = np.asarray(picture, dtype=np.uint8).reshape(784)
        logits = np.random.default_rng(0).normal(size=(10, 784)) @ (pixels / 255.0) / 3
        odds = np.exp(logits - logits.max())
        shares = (odds / odds.sum()).tolist()
        label = int(np.argmax(shares))
        return {
            "label": label,
            "class_name": CLASS_NAMES[label],
            "probability": shares[label],
            "probabilities": dict(zip(CLASS_NAMES, shares, strict=True)),
            "pixels": pixels.tolist(),
        }


def _handler(service: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: the tests read what was asked from `service`."""

        def send(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            if status == 503:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body)

        def answer(self, status: int, value: Any) -> None:
            self.send(status, json.dumps(value).encode())

        def allowed(self) -> bool:
            given = self.headers.get("Authorization", "")
            if not service.token or given == f"Bearer {service.token}":
                return True
            self.answer(401, {"error": "a token is needed"})
            return False

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            file = PAGE / ("index.html" if path == "/" else path.removeprefix("/static/"))
            if path == "/model":
                if self.allowed():
                    self.answer(200, service.facts())
            elif (path == "/" or path.startswith("/static/")) and file.is_file():
                self.send(200, file.read_bytes(), TYPES[file.suffix])
            else:
                self.answer(404, {"error": f"nothing at {path}"})

        def do_POST(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.allowed():
                return
            asked = {"path": url.path, "type": self.headers["Content-Type"], "bytes": len(body)}
            service.predicts.append({**asked, **query, "body": body})
            if service.refuse:
                status, reason = service.refuse.pop(0)
                return self.answer(status, {"error": reason})
            try:
                prediction = service.predict(body)
            except UnidentifiedImageError:
                return self.answer(400, {"error": "the body is not an image"})
            self.answer(200, {"model": service.facts(), "predictions": [prediction]})

    return Handler


@pytest.fixture
def service() -> Iterator[StandIn]:
    stand_in = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stand_in))
    server.daemon_threads = True
    stand_in.address = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield stand_in
    server.shutdown()
    thread.join()
    server.server_close()


# ---- static checks


def page_files() -> list[Path]:
    return [path for path in sorted(PAGE.rglob("*")) if path.suffix in TYPES]


def test_nothing_is_inline_so_a_strict_policy_can_hold() -> None:
    for path in sorted(PAGE.glob("*.html")):
        html = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)
        assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []
    html = (PAGE / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]


def test_no_file_names_another_host() -> None:
    for path in page_files():
        urls = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", path.read_text())
        assert [url for url in urls if url != "http://www.w3.org/2000/svg"] == [], path.name


def test_every_file_the_page_refers_to_is_there_and_none_is_unused() -> None:
    referred = set()
    for path in page_files():
        referred.update(re.findall(r'(?:static|\.)/([\w/-]+\.(?:js|css|svg))"', path.read_text()))
    script = (PAGE / "page.js").read_text()
    table = re.search(r"const SILHOUETTES = \{(.*?)\};", script, re.S)
    assert table
    pairs = dict(re.findall(r'"?(\w[\w/ -]*)"?: "([\w-]+)"', table[1]))
    assert list(pairs) == CLASS_NAMES
    referred.update(f"silhouettes/{name}.svg" for name in pairs.values())
    there = {path.relative_to(PAGE).as_posix() for path in page_files()}
    assert referred == there - {"index.html", "docs.html", "gate.html"}


def test_silhouettes_are_light_on_dark_and_sized() -> None:
    for path in sorted((PAGE / "silhouettes").glob("*.svg")):
        root = ElementTree.fromstring(path.read_text())
        assert (root.get("width"), root.get("height")) == ("280", "280"), path.name
        ground, article = root[0], root[1:]
        assert ground.get("fill") == "#000", path.name
        assert len(article) >= 1, path.name


def test_every_control_has_a_name() -> None:
    html = (PAGE / "index.html").read_text()
    for control in re.findall(r"<(?:input|select)[^>]*>", html):
        name = re.search(r'id="([\w-]+)"', control)
        wrapped = re.search(r"<label[^>]*>(?:(?!</label>).)*" + re.escape(control), html, re.S)
        assert wrapped or (name and f'for="{name[1]}"' in html), control


# ---- in Chromium


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip("no chromium and chromedriver found: apt-get install chromium chromium-driver")
    pytest.importorskip("selenium", reason="selenium is needed to drive Chromium")
    browser = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Any, service: StandIn) -> Iterator[Any]:
    """The browser; afterwards no console error is left that a test hasn't looked at."""
    yield chromium
    assert console_errors(chromium) == []
    chromium.get("about:blank")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A photograph-like JPEG, 2000 by 1500 pixels."""
    y, x = np.mgrid[0:1500, 0:2000]
    rgb = np.stack([x * 255 / 2000, y * 255 / 1500, (x + y) % 256], axis=-1).astype(np.uint8)
    path = tmp_path / "coat.jpg"
    Image.fromarray(rgb).save(path, quality=90)
    return path


def expected_bars(service: StandIn) -> dict[str, str]:
    """The percentages that belong to the picture asked about last."""
    shares = service.predict(service.predicts[-1]["body"])["probabilities"]
    return {name: f"{100 * share:.1f} %" for name, share in shares.items()}


def test_the_model_served_is_named(browser: Any, service: StandIn) -> None:
    open_page(browser, service.address)
    shown = text(browser, "facts")
    for fact in ("fmlp 3fa9c1d2", "0.001", "Seed", "17", "90.32 %", "89.71 %", "fashion-mnist"):
        assert fact in shown
    assert list(bars(browser)) == CLASS_NAMES


def test_a_chosen_picture_is_reduced_and_its_ten_bars_shown(
    browser: Any, service: StandIn, picture: Path
) -> None:
    open_page(browser, service.address)
    choose_file(browser, picture)
    verdict = wait_for_answer(browser)
    sent = service.predicts[-1]
    assert Image.open(io.BytesIO(sent["body"])).size == (1024, 768)
    assert (sent["type"], sent["show"], sent["invert"]) == ("image/jpeg", "pixels", "auto")
    assert {name: value for name, (value, _) in bars(browser).items()} == expected_bars(service)
    assert abs(sum(part for _, part in bars(browser).values()) - 1) < 1e-6
    assert verdict.startswith(service.predict(sent["body"])["class_name"])
    assert hosts_asked(browser) == {urlsplit(service.address).netloc}


def test_the_picture_shown_is_the_one_the_model_saw(
    browser: Any, service: StandIn, picture: Path
) -> None:
    open_page(browser, service.address)
    choose_file(browser, picture)
    wait_for_answer(browser)
    script = """return [...document.getElementById('seen').getContext('2d')
        .getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)"""
    assert browser.execute_script(script) == service.predict(service.predicts[-1]["body"])["pixels"]


def test_a_dropped_picture_is_recognised_and_keeps_its_pixels(
    browser: Any, service: StandIn
) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (28, 28), dtype=np.uint8)
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "PNG")
    open_page(browser, service.address)
    drop_file(browser, body.getvalue(), "image/png", "shirt.png")
    wait_for_answer(browser)
    sent = Image.open(io.BytesIO(service.predicts[-1]["body"])).convert("L")
    assert np.array_equal(np.asarray(sent), pixels)


def test_a_pasted_picture_is_recognised(browser: Any, service: StandIn) -> None:
    body = io.BytesIO()
    Image.new("L", (40, 30), 200).save(body, "PNG")
    open_page(browser, service.address)
    paste_file(browser, body.getvalue(), "image/png")
    wait_for_answer(browser)
    assert Image.open(io.BytesIO(service.predicts[-1]["body"])).size == (40, 30)


def test_a_dropped_file_that_is_no_picture_is_refused_in_words(
    browser: Any, service: StandIn
) -> None:
    open_page(browser, service.address)
    drop_file(browser, b"not a picture", "image/png", "notes.png")
    wait_for(lambda: "notes.png can't be read" in text(browser, "problem"), "nothing was said")
    assert service.predicts == []


def test_silhouettes_are_tried_with_the_keyboard_alone(browser: Any, service: StandIn) -> None:
    open_page(browser, service.address)
    tab_to(browser, "#samples button")
    ring = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(ring) == "solid"
    press_keys(browser, "\ue007")
    first = wait_for_answer(browser)
    press_keys(browser, "\ue004", "\ue007")
    wait_for(lambda: len(service.predicts) == 2, "the second silhouette was not sent")
    wait_for_answer(browser, different_from=first)
    assert service.predicts[0]["body"] != service.predicts[1]["body"]
    pressed = "return document.querySelector('#samples [aria-pressed=true] img').alt"
    assert browser.execute_script(pressed) == "Trouser"


def test_a_drawing_is_recognised_after_the_stroke_and_undone(
    browser: Any, service: StandIn
) -> None:
    open_page(browser, service.address)
    browser.find_element("css selector", "[name=tool][value=brush]").click()
    draw_stroke(browser, [(-80, -80), (80, -80), (80, 80), (-80, 80)])
    first = wait_for_answer(browser)
    drawn = np.asarray(Image.open(io.BytesIO(service.predicts[-1]["body"])).convert("L"))
    assert 0.05 < (drawn > 200).mean() < 0.5 and drawn[:40].max() == 0
    assert drawn[280, 280] == 0
    assert service.predicts[-1]["invert"] == "false"
    draw_stroke(browser, [(-100, 0), (100, 0)])
    wait_for_answer(browser, different_from=first)
    browser.find_element("id", "undo").click()
    wait_for(lambda: len(service.predicts) == 3, "undo was not recognised again")
    assert service.predicts[2]["body"] == service.predicts[0]["body"]
    browser.find_element("id", "clear").click()
    wait_for(lambda: "Nothing" in text(browser, "verdict"), "clear left the old answer")
    assert {value for value, _ in bars(browser).values()} == {"\u2013"}


@pytest.mark.parametrize("pointer", ["touch", "pen"])
def test_one_can_draw_with_a_finger_or_a_pen(browser: Any, service: StandIn, pointer: str) -> None:
    open_page(browser, service.address, width=360)
    draw_stroke(browser, [(-60, -60), (60, -60), (60, 60), (-60, 60)], pointer)
    wait_for_answer(browser)
    drawn = np.asarray(Image.open(io.BytesIO(service.predicts[-1]["body"])).convert("L"))
    assert drawn[280, 280] > 200 and browser.execute_script("return scrollY") == 0


def test_a_filled_outline_covers_its_inside(browser: Any, service: StandIn) -> None:
    open_page(browser, service.address)
    draw_stroke(browser, [(-100, -100), (100, -100), (100, 100), (-100, 100)])
    wait_for_answer(browser)
    drawn = np.asarray(Image.open(io.BytesIO(service.predicts[-1]["body"])).convert("L"))
    assert (drawn[200:360, 200:360] > 200).all()


def test_one_can_draw_with_the_keyboard_alone(browser: Any, service: StandIn) -> None:
    open_page(browser, service.address)
    tab_to(browser, "#pad")
    press_keys(browser, " ", *["\ue014"] * 5, *["\ue015"] * 5, " ")
    wait_for_answer(browser)
    drawn = np.asarray(Image.open(io.BytesIO(service.predicts[-1]["body"])).convert("L"))
    assert drawn[280, 330] > 200 and drawn[330, 380] > 200 and drawn[330, 300] == 0


def test_inverting_is_asked_of_the_service(browser: Any, service: StandIn, picture: Path) -> None:
    open_page(browser, service.address)
    choose_file(browser, picture)
    wait_for_answer(browser)
    browser.find_element("css selector", "#invert [value=true]").click()
    wait_for(lambda: len(service.predicts) == 2, "the choice was not sent")
    assert service.predicts[-1]["invert"] == "true"


def test_a_refusal_is_said_in_one_line_and_the_old_answer_goes(
    browser: Any, service: StandIn, picture: Path
) -> None:
    open_page(browser, service.address)
    choose_file(browser, picture)
    wait_for_answer(browser)
    service.refuse.append((400, "the picture has no article"))
    choose_file(browser, picture)
    said = wait_for(lambda: text(browser, "problem"), "nothing was said")
    assert said == "The service refused the picture: the picture has no article"
    assert "%" not in text(browser, "verdict")
    assert "400" in " ".join(console_errors(browser))  # the browser's own note


def test_a_busy_service_is_asked_again(browser: Any, service: StandIn, picture: Path) -> None:
    service.refuse.append((503, "at capacity"))
    open_page(browser, service.address)
    choose_file(browser, picture)
    wait_for_answer(browser)
    assert len(service.predicts) == 2 and text(browser, "problem") == ""
    service.refuse.extend([(503, "at capacity")] * 3)
    choose_file(browser, picture)
    wait_for(lambda: "busy" in text(browser, "problem"), "it never gave up")
    browser.find_element("id", "again").click()
    wait_for_answer(browser)
    assert console_errors(browser, ignored="503") == []


def test_a_new_version_is_noticed(browser: Any, service: StandIn) -> None:
    open_page(browser, service.address)
    service.version = "77aa00bb"
    draw_stroke(browser, [(-80, 0), (80, 0)])
    wait_for(lambda: "77aa00bb" in text(browser, "facts"), "the old version is still named")


def test_a_token_is_asked_for_used_and_not_stored(browser: Any, service: StandIn) -> None:
    service.token = "s3cret-token"
    open_page(browser, service.address)
    field_ = browser.find_element("id", "token")
    wait_for(field_.is_displayed, "no token was asked for")
    field_.send_keys("wrong", "\ue007")
    wait_for(lambda: "accept" in text(browser, "token-problem"), "a wrong token passed")
    field_.clear()
    field_.send_keys(service.token, "\ue007")
    wait_for(lambda: "fmlp 3fa9c1d2" in text(browser, "facts"), "the token was not used")
    assert not field_.is_displayed()
    draw_stroke(browser, [(-80, 0), (80, 0)])
    wait_for_answer(browser)
    kept = "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert service.token not in browser.execute_script(kept)
    assert console_errors(browser, ignored="401") == []


def test_a_picture_is_taken_with_the_camera_which_is_then_off(
    browser: Any, service: StandIn
) -> None:
    open_page(browser, service.address)
    camera_permission(browser, service.address, "granted")
    browser.find_element("css selector", "[name=mode][value=camera]").click()
    browser.find_element("id", "camera-start").click()
    ready = "return document.getElementById('video').videoWidth"
    wait_for(lambda: browser.execute_script(ready), "the camera shows nothing")
    browser.execute_script("window.tracks = document.getElementById('video').srcObject.getTracks()")
    wait_for(browser.find_element("id", "camera-take").is_displayed, "no button to take it with")
    browser.find_element("id", "camera-take").click()
    wait_for_answer(browser)
    width, height = Image.open(io.BytesIO(service.predicts[-1]["body"])).size
    assert width == height <= 1024
    assert browser.execute_script("return tracks.map((t) => t.readyState)") == ["ended"]


def test_a_refused_camera_is_said_and_a_way_on_is_offered(browser: Any, service: StandIn) -> None:
    open_page(browser, service.address)
    camera_permission(browser, service.address, "denied")
    browser.find_element("css selector", "[name=mode][value=camera]").click()
    browser.find_element("id", "camera-start").click()
    wait_for(lambda: "camera was refused" in text(browser, "problem"), "nothing was said")
    assert browser.find_element("id", "camera-app").is_displayed()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_can_be_read(browser: Any, service: StandIn, width: int, dark: bool) -> None:
    open_page(browser, service.address, width, dark)
    browser.find_element("css selector", "#samples button").click()
    wait_for_answer(browser)
    assert sideways_scroll(browser) <= 0
    assert low_contrast(browser) == []


def test_dark_mode_has_other_colours(browser: Any, service: StandIn) -> None:
    colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    open_page(browser, service.address)
    light = browser.execute_script(colours)
    open_page(browser, service.address, dark=True)
    dark = browser.execute_script(colours)
    assert light[0] != dark[0] and light[1] != dark[1]


def test_reduced_motion_is_honoured(browser: Any, service: StandIn) -> None:
    bar = "return getComputedStyle(document.querySelector('.bar')).transitionProperty"
    open_page(browser, service.address)
    assert browser.execute_script(bar) == "width"
    reduced = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [reduced]})
    assert browser.execute_script(bar) == "none"
