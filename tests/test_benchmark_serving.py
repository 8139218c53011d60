"""The serving benchmark: what it reads from wrk, what it derives, and that a rival is measured."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.serving.running_service import make_bundle

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULT = (
    'RESULT {"requests": 500, "seconds": 2.0, "p50_ms": 1.5, "p99_ms": 9.25, "max_ms": 20.0, '
    '"connect": 1, "read": 2, "write": 3, "timeout": 4, "status": 100}'
)


def needs_wrk(test: Callable[..., None]) -> Any:
    missing = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk isn't installed")
    return pytest.mark.wrk(missing(test))


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's modules, imported as its script imports them."""
    sys.path.insert(0, str(BENCHMARKS))
    names = ("serving_load", "serving_servers", "serving_soak", "serving_table", "training_table")
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in names:
            sys.modules.pop(name, None)


def load(rate: float, p50: float = 1.0, p99: float = 5.0, errors: int = 0, images: int = 1) -> Any:
    return {
        "requests_per_second": rate,
        "images_per_second": rate * images,
        "p50_ms": p50,
        "p99_ms": p99,
        "socket_errors": errors,
        "status_errors": 0,
    }


def test_failed_answers_are_no_throughput_and_all_kinds_of_errors_count(bench: Any) -> None:
    measured = bench.serving_load.parse_wrk(f"Running 2s test\n  x\n{RESULT}\n", 16, 256)
    assert measured.requests_per_second == 200
    assert measured.images_per_second == 200 * 256
    assert (measured.socket_errors, measured.status_errors, measured.errors) == (10, 100, 110)
    assert (measured.p50_ms, measured.p99_ms, measured.connections) == (1.5, 9.25, 16)


def test_wrk_that_measured_nothing_is_an_error(bench: Any) -> None:
    with pytest.raises(ValueError, match="unable to connect"):
        bench.serving_load.parse_wrk("unable to connect to 127.0.0.1:1", 1, 1)


@needs_wrk
def test_wrk_sends_the_bodies_in_turn_with_their_headers(bench: Any, tmp_path: Path) -> None:
    seen: set[tuple[bytes, str | None, str]] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.add((body, self.headers["X-Kind"], self.path))
            self.send_response(200 if body == b"a" else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    bench.serving_load.write_bodies([b"a", b"\x00\xffb"], tmp_path / "bodies")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            measured = bench.serving_load.run_wrk(
                f"http://127.0.0.1:{server.server_port}/here",
                *(2, 1, tmp_path / "bodies", {"X-Kind": "raw: x"}),
            )
        finally:
            server.shutdown()
    assert seen == {(b"a", "raw: x", "/here"), (b"\x00\xffb", "raw: x", "/here")}
    assert measured.requests > 10
    assert measured.status_errors == pytest.approx(measured.requests / 2, abs=4)
    assert measured.socket_errors == 0


def test_every_form_carries_the_images_and_gives_probabilities_back(bench: Any) -> None:
    images = np.arange(2 * 784, dtype=np.uint32).reshape(2, 784).astype(np.uint8)
    probabilities = np.random.default_rng(0).random((2, 10), dtype=np.float32)
    servers = bench.serving_servers
    assert servers._raw(images) == images.tobytes()
    assert json.loads(servers._json("instances")(images)) == {"instances": images.tolist()}
    assert json.loads(servers._json("image", single=True)(images[:1]))["image"][5] == 5
    rows = probabilities.tolist()
    named = [dict(zip("abcdefghij", row, strict=True)) for row in rows]
    for given in (rows, named):
        body = json.dumps({"predictions": [{"probabilities": row} for row in given]}).encode()
        assert np.array_equal(servers._predictions(body), probabilities)
    output = {"name": "probabilities", "shape": [2, 10], "data": probabilities.ravel().tolist()}
    body = json.dumps({"outputs": [output]}).encode()
    assert np.array_equal(servers._from_v2_json(body), probabilities)
    body = b'{"outputs": [{"name": "probabilities"}]}' + probabilities.tobytes()
    assert np.array_equal(servers._from_v2_binary(body), probabilities)


def test_each_bar_is_judged_on_its_own_pair_of_loads(bench: Any) -> None:
    loads = {
        "fmlp": {
            "raw": {1: load(400, p50=2.5), 64: load(3000, p99=40.0)},
            "json": {64: load(1500, errors=1)},
            "many": {1: load(30, images=256), 16: load(50, images=256)},
        },
        "fastapi": {"raw": {64: load(1500, p99=30.0)}},
        "ray": {"raw": {64: load(200)}},
        "mlserver": {"json": {64: load(800)}},
        "litserve": {"json": {64: load(300)}},
    }
    limits = {"64": 20000.0, "256": 25600.0}
    figures = {
        figure.what.strip(): (figure.value, figure.met)
        for figure in bench.serving_table.load_figures(loads, "fmlp", limits)
    }
    assert figures == {
        "raw, 64 connections: this service ÷ FastAPI": (2.0, True),
        "its p99 beside FastAPI's": (40.0, False),
        "raw, 64 connections: this service ÷ Ray Serve, defaults": (15.0, True),
        "JSON, 64 connections: this service ÷ mlserver": (1.875, False),
        "JSON, 64 connections: this service ÷ litserve": (5.0, True),
        "JSON ÷ raw, 64 connections": (0.5, False),
        "raw, 1 connection: p50": (2.5, False),
        "images/s of bare matrix products, batch 64": (20000.0, None),
        "images/s of bare matrix products, batch 256": (25600.0, None),
        "images/s, 256 a request, 16 connections": (12800.0, True),
        "of the bare products' (stretch)": (0.5, True),
        "failed requests of this service": (1, False),
    }


def test_the_table_has_a_row_for_each_load_and_shows_errors(bench: Any) -> None:
    shown = bench.serving_table.render_loads(
        {"fmlp": {"raw": {1: load(1234.5, errors=7)}, "many": {16: load(10, images=256)}}},
        {"fmlp": "this service"},
    ).splitlines()
    assert shown[0].startswith("one image, raw bytes")
    assert shown[1].split() == ["this", "service", "1", "1,234", "1,234", "1.00", "5.0", "7"]
    assert shown[4].split() == ["this", "service", "16", "10", "2,560", "1.00", "5.0", "0"]


def samples(*replica: float, other: float = 7.0) -> list[dict[str, Any]]:
    return [{"processes": 2, "pss_mib": {"replica": each, "raylet": other}} for each in replica]


def test_growth_is_what_comes_after_the_first_quarter_in_all_processes(bench: Any) -> None:
    soak = bench.serving_soak
    level = samples(100, 120, 150, 180, *[200] * 12)
    assert soak.growth_mib(level) == 0
    rising = samples(*range(16))
    assert soak.growth_mib(rising) == 8
    assert soak.growth_mib_by_role(rising) == {"raylet": 0, "replica": 8}
    for sample in rising[8:]:
        sample["pss_mib"]["new"] = 3.0
    assert soak.growth_mib(rising) == 11  # a process that appears is growth too
    assert soak.growth_mib_by_role(rising)["new"] == 3


def test_too_few_samples_are_never_a_bar_that_is_met(bench: Any) -> None:
    few = samples(*[200] * (bench.serving_soak.FEWEST_SAMPLES - 1))
    figures = bench.serving_table.soak_figures(
        {
            "load": {"seconds": 5, "socket_errors": 0, "status_errors": 0} | load(1000),
            "growth_mib": bench.serving_soak.growth_mib(few),
            "growth_mib_by_role": bench.serving_soak.growth_mib_by_role(few),
            "processes": 2,
        }
    )
    (growth,) = [figure for figure in figures if "growth" in figure.what]
    assert growth.met is None and growth.to_json()["value"] is None
    (line,) = [row for row in bench.training_table.render(figures).splitlines() if "growth" in row]
    assert line.endswith("not known") and "?" in line
    assert json.loads(json.dumps([figure.to_json() for figure in figures], allow_nan=False))


def test_all_of_a_commands_processes_are_counted(bench: Any) -> None:
    """Its children and theirs; the session has those whose parent has ended."""
    script = "sleep 60 & (sleep 61 & sleep 62) & wait"
    command = subprocess.Popen(["bash", "-c", script], start_new_session=True)
    try:
        wanted = {"bash", "sleep 60", "sleep 61", "sleep 62"}
        until = time.monotonic() + 10
        while True:
            found = bench.serving_soak.processes_of(command.pid)
            said = {" ".join(each.cmdline()) for each in found}
            if wanted - {"bash"} <= said:
                break
            assert time.monotonic() < until, said
            time.sleep(0.05)
        assert any(line.startswith("bash") for line in said)
        with bench.serving_soak.MemoryWatch(command.pid) as watch:
            time.sleep(2.5)
        assert watch.samples and all(each["processes"] >= 4 for each in watch.samples)
        assert {"bash", "sleep"} <= set(watch.samples[0]["pss_mib"])
        assert all(value > 0 for value in watch.samples[0]["pss_mib"].values())
    finally:
        for each in bench.serving_soak.processes_of(command.pid):
            each.kill()
        command.wait()


@pytest.mark.slow
@needs_wrk
def test_a_rival_is_started_checked_loaded_and_stopped(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", seed=1, steps=0)
    out = tmp_path / "serving.json"
    done = subprocess.run(
        [
            *(sys.executable, str(BENCHMARKS / "serving.py"), "--bundle", str(bundle)),
            *("--seconds", "1", "--only", "fastapi", "--out", str(out)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(out.read_text("utf-8"))
    loads = measured["servers"]["fastapi"]["loads"]
    for form, images in (("raw", 1), ("json", 1), ("many", 256)):
        for connections in ("1", "16", "64"):
            each = loads[form][connections]
            # a second may be too short for the first of 64 requests of 256 images
            assert each["requests"] > 0 or (form, connections) == ("many", "64")
            assert each["socket_errors"] + each["status_errors"] == 0
            assert each["images_per_second"] == images * each["requests_per_second"]
    assert measured["limits"]["256"] > loads["many"]["1"]["images_per_second"]
    assert "FastAPI, uvicorn" in done.stdout
