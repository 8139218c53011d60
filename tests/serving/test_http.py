"""The service over HTTP: predictions, the protocol, limits, errors. The engine is a stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import logging
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from distributed_fmlp.serving import predict_route
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import Message
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.predict_input import PredictInput, decode_predict
from tests.serving.stand_in_engine import (
    CLASS_NAMES,
    MODEL,
    StandInEngine,
    ask,
    error_of,
    expected,
    listening,
    service,
)

IMAGES = np.random.default_rng(1).integers(0, 256, (5, 784), dtype=np.uint8)
OCTETS = {"Content-Type": "application/octet-stream"}
INFER = "/v2/models/fmlp/infer"
VERSION = MODEL.version


@pytest.fixture
def engine() -> StandInEngine:
    return StandInEngine()


def infer_body(images: Any = IMAGES, **fields: Any) -> dict[str, Any]:
    tensor = {
        "name": "images",
        "shape": list(images.shape),
        "datatype": "UINT8",
        "data": images.reshape(-1).tolist(),
    }
    return {"inputs": [tensor], **fields}


def png(size: tuple[int, int] = (60, 90)) -> bytes:
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[10:-10, 10:-10] = 200
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def post_raw(app: Any, images: Any = IMAGES, path: str = "/predict", **more: str) -> httpx.Response:
    return ask(app, "POST", path, content=images.tobytes(), headers={**OCTETS, **more})


# ---- POST /predict


def test_raw_pixels_are_answered_with_name_probability_and_the_model(engine: StandInEngine) -> None:
    answer = post_raw(service(engine))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fmlp-model-version"] == VERSION
    assert "x-fmlp-seed" not in answer.headers and "server" not in answer.headers
    body = answer.json()
    assert body["model"] == json.loads(json.dumps(MODEL.facts()))
    assert len(body["predictions"]) == 5
    for said, row in zip(body["predictions"], expected(IMAGES), strict=True):
        assert set(said) == {"label", "class_name", "probability", "probabilities"}
        assert said["label"] == row.argmax()
        assert said["class_name"] == CLASS_NAMES[row.argmax()]
        assert said["probability"] == row.max()
        assert list(said["probabilities"]) == list(CLASS_NAMES)
        assert list(said["probabilities"].values()) == row.tolist()


@pytest.mark.parametrize("form", ["json", "nested json", "npy", "multipart", "gzip", "deflate"])
def test_every_form_of_the_same_images_gets_the_same_answer(
    engine: StandInEngine, form: str
) -> None:
    npy = io.BytesIO()
    np.save(npy, IMAGES)
    sent: dict[str, Any] = {
        "json": {"json": {"instances": IMAGES.tolist()}},
        "nested json": {"json": {"instances": IMAGES.reshape(5, 28, 28).tolist()}},
        "npy": {"content": npy.getvalue(), "headers": {"Content-Type": "application/x-npy"}},
        "multipart": {"files": {"file": ("images.npy", npy.getvalue())}},
        "gzip": {
            "content": gzip.compress(IMAGES.tobytes()),
            "headers": {**OCTETS, "Content-Encoding": "gzip"},
        },
        "deflate": {
            "content": zlib.compress(IMAGES.tobytes()),
            "headers": {**OCTETS, "Content-Encoding": "deflate"},
        },
    }[form]
    app = service(engine)
    answer = ask(app, "POST", "/predict", **sent)
    assert answer.status_code == 200, answer.text
    assert answer.json() == post_raw(app).json()


def test_pixels_are_shown_to_who_asks_and_are_what_the_model_saw(engine: StandInEngine) -> None:
    app = service(engine)
    for body, kind in ((png(), "image/png"), (IMAGES[:2].tobytes(), "application/octet-stream")):
        answer = ask(
            app, "POST", "/predict?show=pixels&invert=auto",
            content=body, headers={"Content-Type": kind},
        )  # fmt: skip
        for said in answer.json()["predictions"]:
            seen = np.array(said["pixels"], np.uint8).reshape(1, 784)
            assert np.allclose(list(said["probabilities"].values()), expected(seen)[0], atol=1e-5)


def test_pixels_of_floats_are_shown_from_0_to_255(engine: StandInEngine) -> None:
    npy = io.BytesIO()
    np.save(npy, IMAGES[0].astype(np.float32) / 255)
    answer = ask(
        service(engine), "POST", "/predict?show=pixels",
        content=npy.getvalue(), headers={"Content-Type": "application/x-npy"},
    )  # fmt: skip
    assert answer.json()["predictions"][0]["pixels"] == IMAGES[0].tolist()


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/predict?show=all", "show is 'all'"),
        ("/predict?invert=maybe", "invert is 'maybe'"),
        ("/predict?trace=1", "trace is '1'"),
        ("/predict?" + "&".join(f"a{i}=1" for i in range(30)), "more than 20 fields"),
    ],
)
def test_query_fields_that_mean_nothing_are_refused(
    engine: StandInEngine, path: str, says: str
) -> None:
    assert says in error_of(post_raw(service(engine), path=path), 400)


def test_showing_pixels_of_too_many_images_is_refused(engine: StandInEngine) -> None:
    many = np.zeros((257, 784), np.uint8)
    assert "256" in error_of(post_raw(service(engine), many, "/predict?show=pixels"), 400)


def test_who_asks_gets_the_facts_as_headers(engine: StandInEngine) -> None:
    app = service(engine)
    by_query, by_header = (
        post_raw(app, path="/predict?trace=true"),
        post_raw(app, **{"X-FMLP-Trace": "true"}),
    )
    for answer in (by_query, by_header):
        assert answer.headers["x-fmlp-learning-rate"] == "0.001"
        assert answer.headers["x-fmlp-seed"] == "0"
        assert answer.headers["x-fmlp-epoch"] == "17"
        assert answer.headers["x-fmlp-dataset-sha256"] == "ab" * 32
        assert answer.headers["x-fmlp-source-commit"] == "c0ffee" * 6


def test_a_fact_can_not_add_a_header(engine: StandInEngine) -> None:
    engine.served = replace(MODEL, source_commit="abc\r\nSet-Cookie: a=b")
    answer = post_raw(service(engine), path="/predict?trace=true")
    assert answer.headers["x-fmlp-source-commit"] == "abcSet-Cookie: a=b"
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"content": b"\0" * 783, "headers": OCTETS}, 400, "multiple of 784"),
        ({"content": b"", "headers": OCTETS}, 400, "no images"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON"),
        ({"content": b"hello"}, 415, "no content type"),
        ({"content": b"a", "headers": {"Content-Type": "text/plain"}}, 415, "text/plain"),
        ({"content": b"a", "headers": {**OCTETS, "Content-Encoding": "br"}}, 415, "br"),
        ({"content": b"a", "headers": {**OCTETS, "Content-Encoding": "gzip"}}, 400, "gzip"),
        ({"content": b"a", "headers": {"Content-Type": "image/png"}}, 400, "picture"),
        ({"json": {"instances": [[0] * 783 + [256]]}}, 400, "instances[0][783] is 256"),
    ],
)
def test_bad_bodies_get_their_status_and_say_what_was_wrong(
    engine: StandInEngine, options: dict[str, Any], status: int, says: str
) -> None:
    assert says in error_of(ask(service(engine), "POST", "/predict", **options), status)
    assert engine.shapes == []


# ---- the protocol


def test_inference_in_json_follows_the_protocol(engine: StandInEngine) -> None:
    answer = ask(service(engine), "POST", INFER, json=infer_body(id="mine"))
    assert answer.headers["x-fmlp-model-version"] == VERSION
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("fmlp", VERSION, "mine")
    assert "parameters" not in body
    outputs = {output["name"]: output for output in body["outputs"]}
    assert np.allclose(np.reshape(outputs["probabilities"]["data"], (5, 10)), expected(IMAGES))
    assert outputs["label"]["data"] == expected(IMAGES).argmax(1).tolist()


def test_inference_tells_the_facts_to_who_asks(engine: StandInEngine) -> None:
    app = service(engine)
    for options in (
        {"json": infer_body(parameters={"trace": True})},
        {"json": infer_body(), "headers": {"X-FMLP-Trace": "true"}},
        {"json": infer_body(), "params": {"trace": "true"}},
    ):
        answer = ask(app, "POST", INFER, **options)
        assert answer.json()["parameters"]["learning_rate"] == 0.001
        assert None not in answer.json()["parameters"].values()
        assert answer.headers["x-fmlp-epoch"] == "17"
    wrong = ask(app, "POST", INFER, json=infer_body(parameters={"trace": "yes"}))
    assert "trace" in error_of(wrong, 400)


def test_a_path_with_a_version_is_answered_by_that_version_alone(engine: StandInEngine) -> None:
    app = service(engine)
    for path, method, options in (
        ("", "GET", {}), ("/ready", "GET", {}), ("/infer", "POST", {"json": infer_body()}),
    ):  # fmt: skip
        here = f"/v2/models/fmlp/versions/{VERSION}{path}"
        assert ask(app, method, here, **options).status_code == 200
        elsewhere = ask(app, method, f"/v2/models/fmlp/versions/abc123{path}", **options)
        assert "'abc123'" in error_of(elsewhere, 404)
    assert "'other'" in error_of(ask(app, "POST", "/v2/models/other/infer", json={}), 404)


def test_a_version_replaced_while_the_request_waited_is_not_answered_by_the_new_one(
    engine: StandInEngine,
) -> None:
    app = service(engine)
    engine.delay = 0.2
    timer = threading.Timer(0.05, lambda: setattr(engine, "served", replace(MODEL, version="new")))
    timer.start()
    answer = ask(app, "POST", f"/v2/models/fmlp/versions/{VERSION}/infer", json=infer_body())
    timer.join()
    assert VERSION in error_of(answer, 404)


def test_live_is_not_ready(engine: StandInEngine) -> None:
    app = service(engine)
    assert ask(app, "GET", "/v2/health/ready").json() == {"live": True, "ready": True}
    assert ask(app, "GET", "/v2/models/fmlp/ready").json() == {"name": "fmlp", "ready": True}
    engine.served = None
    live = ask(app, "GET", "/v2/health/live")
    assert (live.status_code, live.json()["live"], live.json()["ready"]) == (200, True, False)
    for path in ("/v2/health/ready", "/v2/models/fmlp/ready"):
        answer = ask(app, "GET", path)
        error_of(answer, 503)
        assert answer.json()["ready"] is False and "retry-after" in answer.headers
    for method, path in (("GET", "/model"), ("GET", "/v2/models/fmlp"), ("GET", "/admin/status")):
        error_of(ask(app, method, path), 503)
    error_of(post_raw(app), 503)


def test_metadata_names_the_model_its_version_and_tensors(engine: StandInEngine) -> None:
    app = service(engine)
    assert "binary_tensor_data" in ask(app, "GET", "/v2").json()["extensions"]
    model = ask(app, "GET", "/v2/models/fmlp").json()
    assert model["versions"] == [VERSION]
    assert [output["name"] for output in model["outputs"]] == [
        "probabilities", "label", "class_name",
    ]  # fmt: skip
    facts = ask(app, "GET", "/model").json()
    assert facts == {**MODEL.facts(), "class_names": list(CLASS_NAMES)}


# ---- limits, faults, methods


def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read(
    engine: StandInEngine,
) -> None:
    app = service(engine, limits=Limits(max_body_bytes=1000))
    received: list[str] = []
    sent: list[Message] = []

    async def receive() -> Message:
        received.append("receive")
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        assert received == [] or message is not sent[0]

    scope = {
        "type": "http", "method": "POST", "path": "/predict", "query_string": b"",
        "headers": [(b"content-length", b"1001")],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]


def test_a_body_without_a_length_is_counted_while_it_comes(engine: StandInEngine) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"\0" * 784

    app = service(engine, limits=Limits(max_body_bytes=10_000))
    error_of(ask(app, "POST", "/predict", content=endless(), headers=OCTETS), 413)
    chunked = ask(service(engine), "POST", "/predict", content=endless(), headers=OCTETS)
    assert len(chunked.json()["predictions"]) == 100


def test_bombs_and_too_many_images_are_refused(engine: StandInEngine) -> None:
    app = service(engine, limits=Limits(max_body_bytes=100_000, max_images=100))
    bomb = gzip.compress(b"\0" * 50_000_000)
    packed = {**OCTETS, "Content-Encoding": "gzip"}
    assert len(bomb) < 100_000
    error_of(ask(app, "POST", "/predict", content=bomb, headers=packed), 413)
    error_of(ask(app, "POST", INFER, content=bomb, headers=packed), 413)
    error_of(post_raw(app, np.zeros((101, 784), np.uint8)), 413)
    small = Limits(max_picture_pixels=1000)
    picture = {"content": png(), "headers": {"Content-Type": "image/png"}}
    error_of(ask(service(engine, limits=small), "POST", "/predict", **picture), 413)


def test_a_body_that_does_not_come_is_given_up(engine: StandInEngine) -> None:
    app = service(engine, body_seconds=0.1)

    async def slow() -> Any:
        yield b"\0"
        await asyncio.sleep(1)
        yield b"\0"

    error_of(ask(app, "POST", "/predict", content=slow(), headers=OCTETS), 408)


def test_large_bodies_together_stay_within_the_budget_and_give_it_back(
    engine: StandInEngine,
) -> None:
    many = np.zeros((200, 784), np.uint8)
    app = service(engine, body_budget_bytes=many.nbytes)
    for _ in range(3):
        assert post_raw(app, many).status_code == 200
    app = service(engine, body_budget_bytes=many.nbytes - 1)
    answer = post_raw(app, many)
    error_of(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert post_raw(app).status_code == 200


def test_clients_that_only_announce_large_bodies_take_nothing_from_the_others(
    engine: StandInEngine,
) -> None:
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {16 << 20}\r\n"
        "Content-Type: application/octet-stream\r\nExpect: 100-continue\r\n\r\n"
    ).encode()
    many = np.random.default_rng(3).integers(0, 256, (200, 784), dtype=np.uint8)
    with listening(service(engine)) as port, contextlib.ExitStack() as stack:
        for _ in range(20):  # more than the budget of 256 MiB holds
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            idle.sendall(head)
            assert b" 100 Continue" in idle.recv(4096)  # its body is waited for
        url = f"http://127.0.0.1:{port}/predict"
        for _ in range(3):
            answer = httpx.post(url, content=many.tobytes(), headers=OCTETS, trust_env=False)
            assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == 200


def test_what_has_come_of_unfinished_bodies_counts_until_they_end(engine: StandInEngine) -> None:
    many = np.zeros((200, 784), np.uint8)
    app = service(engine, body_budget_bytes=2 * many.nbytes - 1)

    async def together() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        halfway, may_end = asyncio.Event(), asyncio.Event()

        async def slowly() -> Any:
            yield many[:100].tobytes()
            yield many[100:199].tobytes()
            halfway.set()
            await may_end.wait()
            yield many[199:].tobytes()

        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            async def post(content: Any) -> httpx.Response:
                return await client.post("/predict", content=content, headers=OCTETS)

            slow = asyncio.create_task(post(slowly()))
            await halfway.wait()
            fits = await post(many[:199].tobytes())
            refused = await post(np.zeros((202, 784), np.uint8).tobytes())
            may_end.set()
            return await slow, fits, refused

    slow, fits, refused = asyncio.run(together())
    assert (slow.status_code, fits.status_code) == (200, 200)
    assert "large bodies" in error_of(refused, 503)
    assert post_raw(app, many).status_code == 200


def test_bodies_that_stand_still_give_way_to_others_and_those_that_come_do_not(
    engine: StandInEngine,
) -> None:
    """Ten clients that send half of a body and wait, one that goes on, and one that wants in."""
    whole = np.zeros((400, 784), np.uint8).tobytes()
    half = whole[: len(whole) // 2]
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(whole)}\r\n"
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    app = service(engine, body_budget_bytes=11 * len(half), body_patience_seconds=600)
    with listening(app) as port, contextlib.ExitStack() as stack:

        def begun() -> socket.socket:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))
            connection.sendall(head + half)
            return connection

        def post() -> httpx.Response:
            url = f"http://127.0.0.1:{port}/predict"
            return httpx.post(url, content=whole, headers=OCTETS, trust_env=False)

        def wait_until_held(halves: int) -> None:
            until = time.monotonic() + 20
            while app._bodies.held != halves * len(half):
                assert time.monotonic() < until
                time.sleep(0.01)

        still = []
        for number in range(10):
            still.append(begun())
            wait_until_held(number + 1)
        error_of(post(), 503)  # they have not stood still for long enough
        app._bodies._patience = 0
        coming = begun()
        wait_until_held(11)
        assert post().status_code == 200
        coming.sendall(whole[len(half) :])
        assert coming.recv(4096).startswith(b"HTTP/1.1 200 ")
        first = still[0].recv(4096)
        assert first.startswith(b"HTTP/1.1 408 ") and b"stood still" in first
        # Only as many as it took: the room is theirs as long as nobody else wants it.
        still[-1].sendall(whole[len(half) :])
        assert still[-1].recv(4096).startswith(b"HTTP/1.1 200 ")


def test_answers_that_nobody_reads_are_held_up_to_a_limit_and_small_ones_go_on(
    engine: StandInEngine,
) -> None:
    many = np.zeros((16_000, 784), np.uint8)
    body = gzip.compress(many.tobytes(), 1)
    length = len(post_raw(service(engine), many).content)
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/octet-stream\r\nContent-Encoding: gzip\r\n\r\n"
    ).encode()
    app = service(engine, answer_budget_bytes=3 * length)
    with listening(app) as port, contextlib.ExitStack() as stack:

        def asked() -> socket.socket:
            connection = socket.socket()
            # Little of an answer lies in the system's buffers then.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stack.enter_context(connection).settimeout(20)
            connection.connect(("127.0.0.1", port))
            connection.sendall(head + body)
            return connection

        begun = [asked() for _ in range(3)]
        assert [each.recv(12) for each in begun] == [b"HTTP/1.1 200"] * 3
        assert asked().recv(12) == b"HTTP/1.1 503"
        url = f"http://127.0.0.1:{port}/predict"
        one = httpx.post(url, content=many[:1].tobytes(), headers=OCTETS, trust_env=False)
        assert one.status_code == 200
        begun[0].close()  # a client that goes, and one that reads, give their room back
        until = time.monotonic() + 20
        while (again := asked()).recv(12) != b"HTTP/1.1 200":
            assert time.monotonic() < until
        left = length
        while left > 0 and (piece := again.recv(1 << 20)):
            left -= len(piece)
        assert left <= 0
        assert asked().recv(12) == b"HTTP/1.1 200"


def test_a_body_in_tiny_pieces_takes_about_as_much_memory_as_it_has_bytes(
    engine: StandInEngine,
) -> None:
    app = service(engine)
    size = 400 * 784
    peaks: list[int] = []

    async def pieces() -> Any:
        for number in range(size // 2):
            yield (number % 2**16).to_bytes(2, "big")
        peaks.append(tracemalloc.get_traced_memory()[1])

    tracemalloc.start()
    try:
        assert ask(app, "POST", "/predict", content=pieces(), headers=OCTETS).status_code == 200
    finally:
        tracemalloc.stop()
    assert peaks[0] < 4 * size  # each piece apart would take 35 bytes and its place in a list


@pytest.mark.parametrize("path", ["/predict", INFER])
@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
def test_over_capacity_nothing_is_decoded_before_it_is_refused(
    engine: StandInEngine, path: str, size: int
) -> None:
    app = service(engine)
    damaged = {"content": b"{" * size, "headers": {"Content-Type": "application/json"}}
    error_of(ask(app, "POST", path, **damaged), 400)
    engine.full = True
    answer = ask(app, "POST", path, **damaged)
    assert error_of(answer, 503) == "over capacity"
    assert answer.headers["retry-after"] == "7"


def test_the_deadline_counts_from_the_arrival_and_not_from_the_end_of_decoding(
    engine: StandInEngine,
) -> None:
    app = service(engine, deadline_seconds=5.0, decode_threads=1)
    many = np.zeros((200, 784), np.uint8)

    async def asked() -> float:
        async def receive() -> Message:
            return {"type": "http.request", "body": many.tobytes()}

        async def send(message: Message) -> None:
            pass

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "query_string": b"",
            "headers": [(b"content-type", b"application/octet-stream")],
        }  # fmt: skip
        gate = threading.Event()
        held = asyncio.create_task(app._workers.run(lambda: gate.wait(20)))
        await asyncio.sleep(0)
        began = time.monotonic()
        request = asyncio.create_task(app(scope, receive, send))
        await asyncio.sleep(0.3)  # its decoding waits for the thread meanwhile
        assert engine.deadlines == []
        gate.set()
        await asyncio.gather(held, request)
        return began

    began = asyncio.run(asked())
    assert began + 5.0 <= engine.deadlines[0] < began + 5.25


def test_decoding_a_large_body_does_not_hold_up_the_others(
    engine: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = service(engine)
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3000), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "PNG", compress_level=1)
    beats = 0  # of the event loop, which every other request needs
    meanwhile: list[int] = []

    def decode(*given: Any) -> PredictInput:
        # A busy machine may leave the loop no turn during one decoding, but not during many. On the
        # loop itself it gets none, however often.
        until = time.monotonic() + 10
        while True:
            before = beats
            decoded = decode_predict(*given)
            if beats > before or time.monotonic() > until:
                meanwhile.append(beats - before)
                return decoded

    async def heartbeat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.002)
            beats += 1

    async def both() -> int:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            beating = asyncio.create_task(heartbeat())
            kind = {"Content-Type": "image/png"}
            answer = await client.post("/predict", content=data.getvalue(), headers=kind)
            beating.cancel()
            return answer.status_code

    monkeypatch.setattr(predict_route, "decode_predict", decode)
    assert asyncio.run(both()) == 200
    (during,) = meanwhile
    assert during > 0


def test_a_client_that_leaves_cancels_its_prediction(engine: StandInEngine) -> None:
    engine.delay = 30
    app = service(engine)
    with listening(app) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {784}\r\n"
            kind = "Content-Type: application/octet-stream\r\n\r\n"
            connection.sendall(head.encode() + kind.encode() + b"\0" * 784)
            until = time.monotonic() + 10
            while not engine.shapes:
                assert time.monotonic() < until
                time.sleep(0.01)
        while not engine.cancelled:
            assert time.monotonic() < until, "the prediction was not cancelled"
            time.sleep(0.01)
        engine.delay = 0
        url = f"http://127.0.0.1:{port}/metrics"
        assert 'status="499"' in httpx.get(url, trust_env=False).text


def test_a_promotion_whose_client_leaves_is_not_carried_out(engine: StandInEngine) -> None:
    engine.delay = 0.5
    served = engine.served
    body = b'{"bundle": "another"}'
    with listening(service(engine)) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            # All at once, as what a network held back arrives.
            connection.sendall(
                b"POST /admin/promote HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + 10
        while not engine.cancelled:
            assert time.monotonic() < until, "the promotion was not cancelled"
            time.sleep(0.01)
        time.sleep(0.6)
    assert len(engine.orders) == 1 and engine.served == served


def test_a_client_that_leaves_while_sending_costs_nothing(
    engine: StandInEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(service(engine)) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7840\r\n"
                b"Content-Type: application/octet-stream\r\n\r\n" + b"\0" * 784
            )
        until = time.monotonic() + 10
        url = f"http://127.0.0.1:{port}/metrics"
        while 'status="499"' not in httpx.get(url, trust_env=False).text:
            assert time.monotonic() < until
            time.sleep(0.02)
    assert engine.shapes == [] and caplog.records == []


@pytest.mark.parametrize("size", [1_500_000, 8_000_000])
def test_a_refused_upload_gets_to_read_why(engine: StandInEngine, size: int) -> None:
    with listening(service(engine, limits=Limits(max_body_bytes=1_000_000))) as port:
        url = f"http://127.0.0.1:{port}/predict"
        answer = httpx.post(url, content=b"\0" * size, headers=OCTETS, trust_env=False)
        error_of(answer, 413)
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("status", [409, 422, 429, 503])
def test_what_the_engine_refuses_is_passed_on(engine: StandInEngine, status: int) -> None:
    engine.failure = RequestError(status, "not now", headers={"Retry-After": "7"})
    answer = post_raw(service(engine))
    assert error_of(answer, status) == "not now"
    assert answer.headers["retry-after"] == "7"


def test_what_was_not_foreseen_is_logged_here_and_not_told_there(
    engine: StandInEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.failure = KeyError("/secret/path")
    with caplog.at_level(logging.ERROR):
        answer = post_raw(service(engine))
    assert error_of(answer, 500) == "internal error"
    assert "/secret/path" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/predict", "POST"),
        ("DELETE", "/", "GET, HEAD"),
        ("OPTIONS", INFER, "POST"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("PUT", "/admin/promote", "POST"),
        ("GET", f"/v2/models/fmlp/versions/{VERSION}/infer", "POST"),
        ("PATCH", "/static/page.js", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    engine: StandInEngine, method: str, path: str, allow: str
) -> None:
    answer = ask(service(engine), method, path)
    error_of(answer, 405)
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/v2/models", "/v2/models/", "/v2/models/fmlp/", "/v2/models/fmlp/versions",
        "/v2/models/fmlp/versions/", "/v2/models/fmlp/versions/a/b", "/static", "/static/",
        "/static/../http.py", "/static/%2e%2e/http.py", "/static/..%2fhttp.py",
        "/static//etc/passwd", "/static/silhouettes", "/predict/", "/admin",
    ],
)  # fmt: skip
def test_other_paths_lead_nowhere(engine: StandInEngine, path: str) -> None:
    error_of(ask(service(engine), "GET", path), 404)


@pytest.mark.parametrize("path", ["/", "/docs", "/model", "/v2", "/metrics", "/static/page.css"])
def test_head_answers_as_get_without_the_body(engine: StandInEngine, path: str) -> None:
    app = service(engine)
    if path == "/metrics":
        ask(app, "GET", path)  # a request more makes the text longer
    get, head = ask(app, "GET", path), ask(app, "HEAD", path)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"]


def test_large_answers_are_compressed_for_who_accepts_it(engine: StandInEngine) -> None:
    app = service(engine)
    for count in (100, 1000):
        many = np.zeros((count, 784), np.uint8)
        plain = post_raw(app, many, **{"Accept-Encoding": "identity"})
        packed = post_raw(app, many, **{"Accept-Encoding": "gzip"})
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(plain.content) / 4
        assert packed.json() == plain.json()
    small = post_raw(app, IMAGES[:1], **{"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers


def test_a_prefix_before_all_paths_is_taken_off(engine: StandInEngine) -> None:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=service(engine), root_path="/clothes")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/clothes/model")

    assert asyncio.run(asked()).status_code == 200


# ---- the page's files


def test_the_page_is_served_with_a_strict_policy(engine: StandInEngine) -> None:
    answer = ask(service(engine), "GET", "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "camera=(self)" in answer.headers["permissions-policy"]


def test_files_have_their_types_and_are_sent_once(engine: StandInEngine) -> None:
    app = service(engine)
    for path, kind in (
        ("/static/page.js", "text/javascript; charset=utf-8"),
        ("/static/page.css", "text/css; charset=utf-8"),
        ("/static/silhouettes/bag.svg", "image/svg+xml"),
        ("/docs", "text/html; charset=utf-8"),
    ):
        first = ask(app, "GET", path)
        assert first.headers["content-type"] == kind
        again = ask(app, "GET", path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = ask(app, "GET", path, headers={"If-None-Match": '"other"'})
        assert other.content == first.content


# ---- the server's own scopes


def test_lifespan_is_answered_and_websockets_are_closed(engine: StandInEngine) -> None:
    app = service(engine)

    async def spoken(kind: str, *heard: str) -> list[str]:
        messages: Iterator[str] = iter(heard)
        said: list[str] = []

        async def receive() -> Message:
            return {"type": next(messages)}

        async def send(message: Message) -> None:
            said.append(message["type"])

        await app({"type": kind}, receive, send)
        return said

    assert asyncio.run(spoken("lifespan", "lifespan.startup", "lifespan.shutdown")) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert asyncio.run(spoken("websocket", "websocket.connect")) == ["websocket.close"]
