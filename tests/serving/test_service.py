"""The whole service over real HTTP on real Ray: what a client, an operator and an attacker meet."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.http import InferenceServerClient, InferInput

from distributed_fmlp.serving.settings import ServiceArguments
from tests.serving import kserve_sdk
from tests.serving.conftest import Bundles
from tests.serving.running_service import (
    OCTETS,
    PROBABILITY_TOLERANCE,
    Load,
    Reply,
    Service,
    assert_error,
    gone,
    listening_addresses,
    running_service,
)
from tests.serving.token_checks import TOKEN, check_token, check_token_is_told_nowhere
from tests.synthetic_run import make_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
DEADLINE = ServiceArguments().deadline_s
IMAGES = np.random.default_rng(5).integers(0, 256, (32, 784), dtype=np.uint8)
INFER = "/v2/models/fmlp/infer"
MAX_QUEUED = 16
MAX_BODY_MIB = 8
DAY = "2026-11-{}T10:00:00+00:00"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, bundles: Bundles) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    with running_service(
        directory,
        *(str(bundles.first), "--max-queued", str(MAX_QUEUED)),
        *("--max-body-mib", str(MAX_BODY_MIB)),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def expected(bundles: Bundles) -> dict[str, NDArray[np.float32]]:
    return bundles.probabilities(IMAGES)


@pytest.fixture
def first(service: Service, bundles: Bundles) -> str:
    """The version of the first bundle, which is served when the test begins."""
    version = bundles.version(bundles.first)
    if service.version != version:
        reply = service.admin("promote", bundle=str(bundles.first), allowed_accuracy_drop=1)
        assert reply.status == 200, reply.body
    return version


# --- starting


def test_it_says_where_it_is_what_it_serves_and_three_requests_that_work(
    service: Service, first: str
) -> None:
    said = service.command.said
    assert f"Serving at {service.url} after " in said and first in said
    assert "learning rate 0.001, seed 1, epoch 3" in said and "(digits)" in said
    lines = [line.strip() for line in said.splitlines()]
    requests = [lines[place + 1] for place, line in enumerate(lines) if line.startswith("# ")]
    assert len(requests) == 3 and sum("curl" in line for line in requests) == 2
    for request in requests:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", request],
            cwd=service.cwd,
            env=service.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "predictions" in done.stdout and first in done.stdout


def test_everything_it_listens_on_is_loopback(service: Service) -> None:
    listening = listening_addresses(service.command.family())
    addresses = {address.removeprefix("::ffff:") for address, _ in listening}
    assert ("127.0.0.1", service.port) in listening
    assert addresses <= {"127.0.0.1", "::1"}, listening
    assert len(listening) > 5  # the processes were really looked at


# --- protocol


def test_health_and_metadata(service: Service, first: str) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert service.ask("GET", path).json == {"live": True, "ready": True}
    assert "binary_tensor_data" in service.ask("GET", "/v2").json["extensions"]
    for path in ("/v2/models/fmlp", f"/v2/models/fmlp/versions/{first}"):
        metadata = service.ask("GET", path).json
        assert metadata["name"] == "fmlp" and metadata["versions"] == [first]
        assert service.ask("GET", f"{path}/ready").json["ready"] is True
    assert_error(service.ask("GET", "/v2/models/other"), 404)
    assert_error(service.ask("GET", "/v2/models/fmlp/versions/000000000000"), 404)


@pytest.mark.parametrize("path", [INFER, "/v2/models/fmlp/versions/{}/infer"])
def test_json_inference(
    service: Service, first: str, expected: dict[str, NDArray[np.float32]], path: str
) -> None:
    tensor = {
        "name": "images",
        "shape": [2, 28, 28],
        "datatype": "UINT8",
        "data": IMAGES[:2].reshape(2, 28, 28).tolist(),
    }
    body = json.dumps({"id": "a", "inputs": [tensor]})
    reply = service.ask("POST", path.format(first), body, Content_Type="application/json")
    assert reply.status == 200, reply.body
    answer = reply.json
    assert (answer["id"], answer["model_version"]) == ("a", first)
    outputs = {each["name"]: each["data"] for each in answer["outputs"]}
    rows = np.array(outputs["probabilities"]).reshape(2, 10)
    assert np.allclose(rows, expected[first][:2], atol=PROBABILITY_TOLERANCE)
    assert outputs["label"] == expected[first][:2].argmax(1).tolist()


def test_triton_with_its_defaults(
    service: Service, first: str, expected: dict[str, NDArray[np.float32]]
) -> None:
    with InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        assert client.is_server_live() and client.is_model_ready("fmlp")
        tensor = InferInput("images", [32, 784], "UINT8")
        tensor.set_data_from_numpy(IMAGES)
        for compression in (None, "gzip", "deflate"):
            answer = client.infer(
                "fmlp",
                [tensor],
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            rows = answer.as_numpy("probabilities")
            assert np.allclose(rows, expected[first], atol=PROBABILITY_TOLERANCE)
            assert answer.get_response()["model_version"] == first


@pytest.mark.kserve
def test_the_kserve_sdk(service: Service, bundles: Bundles, first: str) -> None:
    expected = bundles.probabilities(kserve_sdk.IMAGES)[first]
    kserve_sdk.check_kserve(kserve_sdk.kserve_answers(service.url), expected)


def test_who_asks_is_told_where_the_model_came_from(service: Service, first: str) -> None:
    with service.connect() as connection:
        plain = connection.predict(IMAGES[:1])
        traced = connection.predict(IMAGES[:1], "/predict?trace=true")
    assert plain.version == traced.version == first
    assert plain.headers["X-FMLP-Seed"] is None
    named = ("Learning-Rate", "Seed", "Epoch", "Source-Commit")
    assert [traced.headers[f"X-FMLP-{name}"] for name in named] == [
        "0.001", "1", "3", "c0ffee" * 6,
    ]  # fmt: skip
    assert len(traced.headers["X-FMLP-Dataset-SHA256"]) == 64


def test_a_request_of_many_images_is_answered_in_order(
    service: Service, first: str, expected: dict[str, NDArray[np.float32]]
) -> None:
    many = np.tile(IMAGES, (40, 1))
    with service.connect() as connection:
        reply = connection.predict(many)
    assert reply.status == 200
    wanted = np.tile(expected[first], (40, 1))
    assert np.allclose(reply.probabilities, wanted, atol=PROBABILITY_TOLERANCE)


def test_the_page_the_docs_and_the_metrics_are_there(service: Service) -> None:
    assert b"<html" in service.ask("GET", "/").body
    assert service.ask("GET", "/docs").status == 200
    assert service.ask("GET", "/openapi.json").json["openapi"].startswith("3.")
    reply = service.ask("GET", "/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {each.name: each for each in text_string_to_metric_families(reply.body.decode())}
    assert families["fmlp_requests"].samples and families["fmlp_batch_images"].samples
    predicted = families["fmlp_predicted_images"].samples
    assert sum(sample.value for sample in predicted) > 1000
    assert {"class_name", "model_version", "replica"} <= set(predicted[0].labels)


# --- what is no good, over the wire


def bomb(size: int) -> bytes:
    return gzip.compress(bytes(size), 9, mtime=0)


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("DELETE", "/predict", None, {}, 405),
        ("GET", "/predict", None, {}, 405),
        ("POST", "/v2/health/live", b"", {}, 405),
        ("GET", "/nothing", None, {}, 404),
        ("GET", "/-/routes", None, {}, 404),
        ("GET", "/../../etc/passwd", None, {}, 404),
        ("POST", "/predict", b"x" * 783, OCTETS, 400),
        ("POST", "/predict", b"", OCTETS, 400),
        ("POST", "/predict", b"{", {"Content-Type": "application/json"}, 400),
        ("POST", "/predict", b"[" * 100_000, {"Content-Type": "application/json"}, 400),
        ("POST", "/predict", b"\x89PNG", {"Content-Type": "image/png"}, 400),
        ("POST", "/predict", b"x", {"Content-Type": "text/csv"}, 415),
        ("POST", "/predict", b"x", {**OCTETS, "Content-Encoding": "br"}, 415),
        ("POST", "/predict", b"x", {**OCTETS, "Content-Encoding": "gzip"}, 400),
        ("POST", "/predict", bomb(64 << 20), {**OCTETS, "Content-Encoding": "gzip"}, 413),
        (
            "POST",
            INFER,
            zlib.compress(bytes(64 << 20), 9),
            {"Content-Encoding": "deflate"},
            413,
        ),
        ("POST", "/predict", bytes((MAX_BODY_MIB + 1) << 20), OCTETS, 413),
        ("POST", INFER, b"{}", {"Inference-Header-Content-Length": "999"}, 400),
        ("POST", "/admin/promote", b"bundle=x", {}, 415),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_requests_are_named_in_json_and_spoil_nothing(
    service: Service,
    first: str,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
) -> None:
    with service.connect() as connection:
        assert_error(connection.ask(method, path, body, headers), status)
    with service.connect() as connection:
        assert connection.predict(IMAGES[:1]).status == 200


def test_a_body_that_is_too_long_is_refused_before_all_of_it_is_sent(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
        raw.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n"
            b"Content-Type: application/octet-stream\r\n\r\n" + bytes(1000)
        )
        answer = raw.recv(65536)
    assert b" 413 " in answer.splitlines()[0] and b'{"error":' in answer


def test_no_answer_names_the_software_that_made_it(service: Service) -> None:
    for path in ("/", "/v2", "/nothing", "/predict", "/metrics"):
        reply = service.ask("GET", path)
        assert reply.headers["Server"] is None
        assert not re.search("uvicorn|haproxy|ray|python", str(reply.headers), re.I)


# --- promotion


def test_promote_status_and_rollback_from_the_command_line(
    service: Service, bundles: Bundles, first: str
) -> None:
    second = bundles.version(bundles.second)
    promoted = service.cli("promote", str(bundles.second), "--allowed-accuracy-drop", "20")
    assert promoted.returncode == 0, promoted.stderr
    assert f"Model {second}" in promoted.stdout and first in promoted.stdout
    assert re.search(r"(?m)^Test accuracy compared: \d\d\.\d\d %, and \d\d\.", promoted.stdout)
    assert service.version == second
    status = service.cli("status")
    assert status.returncode == 0 and f"serves {second}" in status.stdout
    rolled_back = service.cli("rollback")
    assert rolled_back.returncode == 0 and f"Model {first}" in rolled_back.stdout
    assert service.version == first


def test_a_damaged_bundle_is_refused_and_the_old_model_serves_on(
    service: Service, bundles: Bundles, first: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundles.second, copy)
    file = copy / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    before = service.ask("GET", "/admin/status").json
    refused = service.cli("promote", str(copy))
    assert refused.returncode == 1 and "SHA-256" in refused.stderr
    assert refused.stderr.startswith("refused (422)") and refused.stderr.count("\n") == 1
    missing = service.admin("promote", bundle=str(tmp_path / "missing"))
    assert missing.status == 422
    assert service.version == first
    assert service.ask("GET", "/admin/status").json["previous"] == before["previous"]


def test_a_refusal_names_no_path_but_the_one_that_was_sent(
    service: Service, bundles: Bundles, first: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundles.second, copy)
    (copy / "weights.safetensors").write_bytes(b"short")
    for sent in (copy.as_uri(), str(copy), "no-such-run", "ftp://user:pass@host/x?key=1"):
        said = assert_error(service.admin("promote", bundle=sent), 422)
        assert "/" not in said.replace(sent, "").replace("ftp://host/x", ""), said
        assert "pass" not in said
    assert service.version == first


def test_it_says_whether_accuracy_was_compared_and_refuses_a_directory_without_data(
    service: Service, bundles: Bundles, first: str, tmp_path: Path
) -> None:
    promoted = service.admin("promote", bundle=str(bundles.second), allowed_accuracy_drop=1)
    compared = promoted.json["accuracy"]
    assert compared["compared"] is True and compared["reason"] is None
    assert 0.5 < compared["before"] <= 1 and 0.5 < compared["promoted"] <= 1
    back = service.admin("rollback")
    assert (back.status, back.json["accuracy"]) == (200, None)

    # a served model whose data set isn't on this machine
    foreign = tmp_path / "foreign"
    shutil.copytree(bundles.first, foreign)
    manifest = json.loads((foreign / "manifest.json").read_text())
    manifest["dataset"] = {"name": "fashion-mnist", "sha256": "0" * 64}
    (foreign / "manifest.json").write_text(json.dumps(manifest))
    assert service.admin("promote", bundle=str(foreign), allowed_accuracy_drop=1).status == 200
    for directory in (tmp_path, tmp_path / "missing"):
        order = {"bundle": str(bundles.second), "data_dir": str(directory)}
        said = assert_error(service.admin("promote", **order), 422)
        assert "accuracy can't be compared" in said and str(directory) in said
        refused = service.cli("promote", str(bundles.second), "--data-dir", str(directory))
        assert refused.returncode == 1 and str(directory) in refused.stderr
    done = service.cli("promote", str(bundles.second))
    assert done.returncode == 0, done.stderr
    assert "Test accuracy NOT compared: the " in done.stdout
    assert (
        service.admin("promote", bundle=str(bundles.first), allowed_accuracy_drop=1).status == 200
    )


def test_a_less_accurate_model_needs_the_option(
    service: Service, bundles: Bundles, first: str
) -> None:
    refused = service.cli("promote", str(bundles.blind))
    assert refused.returncode == 1 and "test accuracy is" in refused.stderr
    assert service.version == first
    allowed = service.cli("promote", str(bundles.blind), "--allowed-accuracy-drop", "95")
    assert allowed.returncode == 0, allowed.stderr
    assert service.version == bundles.version(bundles.blind)
    assert service.cli("rollback").returncode == 0
    assert service.version == first


def test_of_two_promotions_at_once_one_is_refused(
    service: Service, bundles: Bundles, first: str
) -> None:
    candidates = (bundles.second, bundles.blind)
    with ThreadPoolExecutor(2) as both:
        replies = list(
            both.map(
                lambda bundle: service.admin(
                    "promote", bundle=str(bundle), allowed_accuracy_drop=1
                ),
                candidates,
            )
        )
    assert sorted(reply.status for reply in replies) == [200, 409], replies
    (promoted,) = (
        bundle for bundle, reply in zip(candidates, replies, strict=True) if reply.status == 200
    )
    assert service.version == bundles.version(promoted)
    assert service.admin("rollback").status == 200
    assert service.version == first


def test_promotions_under_load_cost_no_request_and_mix_no_answer(
    service: Service,
    bundles: Bundles,
    first: str,
    expected: dict[str, NDArray[np.float32]],
    tell: Callable[[str], None],
) -> None:
    load = Load(expected, IMAGES)
    changes = 0
    with load.on(service.port, connections=10):
        until = time.monotonic() + 5
        while time.monotonic() < until:
            one = service.admin("promote", bundle=str(bundles.second), allowed_accuracy_drop=1)
            two = service.admin("rollback")
            assert (one.status, two.status) == (200, 200), (one.body, two.body)
            changes += 2
    tell(f"{changes} promotions and rollbacks under load: {load.figures()}")
    assert (load.failed, load.mixed) == ([], [])
    assert load.sent > 200 and changes >= 4
    assert set(load.answers) == set(expected) and min(load.answers.values()) > 20


# --- over capacity


def test_over_capacity_it_says_503_at_once_and_keeps_its_latency(
    service: Service,
    first: str,
    expected: dict[str, NDArray[np.float32]],
    tell: Callable[[str], None],
) -> None:
    blocks = np.tile(IMAGES, (64, 1)).tobytes()  # 2,048 images
    refused: list[Reply] = []
    answered: list[Reply] = []
    small: list[Reply] = []
    over = threading.Event()

    def ask(_: int) -> None:
        with service.connect() as connection:
            reply = connection.ask("POST", "/predict", blocks, OCTETS)
            (answered if reply.status == 200 else refused).append(reply)

    def ask_for_one() -> None:
        with service.connect() as connection:
            while not over.wait(0.05):
                small.append(connection.predict(IMAGES[:1]))

    beside = threading.Thread(target=ask_for_one)
    beside.start()
    with ThreadPoolExecutor(100) as clients:
        list(clients.map(ask, range(150)))
    over.set()
    beside.join(60)
    seconds, at_once, of_one = (
        np.array([reply.seconds for reply in replies]) for replies in (answered, refused, small)
    )
    tell(
        f"150 requests of 2048 images at 100 connections, {MAX_QUEUED} held at once: "
        f"{len(answered)} answered, {len(refused)} refused; answers median "
        f"{np.median(seconds):.2f} s, slowest {seconds.max():.2f} s; refusals median "
        f"{np.median(at_once):.3f} s, slowest {at_once.max():.3f} s; {len(small)} of one image "
        f"meanwhile: median {np.median(of_one):.3f} s, slowest {of_one.max():.3f} s",
    )
    assert refused and answered and small
    assert np.median(at_once) < np.median(seconds)
    assert max(seconds.max(), at_once.max(), of_one.max()) < DEADLINE
    assert np.median(of_one) < np.median(seconds)
    assert {reply.status for reply in small} <= {200, 503}
    for reply in refused:
        assert_error(reply, 503)
        assert int(reply.headers["Retry-After"]) >= 1
    with service.connect() as connection:
        reply = connection.predict(IMAGES[:1])
    assert reply.status == 200
    assert np.allclose(reply.probabilities, expected[first][:1], atol=PROBABILITY_TOLERANCE)


def test_small_requests_are_not_held_up_behind_a_big_one(
    service: Service,
    first: str,
    expected: dict[str, NDArray[np.float32]],
    tell: Callable[[str], None],
) -> None:
    big = np.tile(IMAGES, (320, 1))  # 10,240 images: about the largest body
    alone, beside = Load(expected, IMAGES), Load(expected, IMAGES)
    with alone.on(service.port, connections=2):
        time.sleep(1)
    with beside.on(service.port, connections=2), service.connect() as connection:
        replies = [connection.predict(big) for _ in range(6)]
    assert [reply.status for reply in replies] == [200] * 6
    took = float(np.median([reply.seconds for reply in replies]))
    tell(
        f"small requests alone p99 {1000 * alone.percentile(0.99):.1f} ms; beside requests of "
        f"{len(big)} images, which take {1000 * took:.0f} ms: p50 "
        f"{1000 * beside.percentile(0.5):.1f} ms, p99 {1000 * beside.percentile(0.99):.1f} ms",
    )
    assert (beside.failed, beside.mixed) == ([], [])
    assert beside.percentile(0.99) < took


def test_clients_that_go_away_leave_nothing_queued(service: Service, first: str) -> None:
    body = np.tile(IMAGES, (64, 1)).tobytes()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    for place in range(3 * MAX_QUEUED):
        with socket.create_connection(("127.0.0.1", service.port), 20) as raw:
            raw.sendall(head + (body if place % 2 else body[:5000]))
    until = time.monotonic() + 20
    while time.monotonic() < until:
        text = service.ask("GET", "/metrics").body.decode()
        queued = re.search(r"(?m)^fmlp_queued_requests\{.*\} (\S+)$", text)
        assert queued is not None
        if float(queued[1]) == 0:
            break
        time.sleep(0.1)
    assert float(queued[1]) == 0
    with service.connect() as connection:
        assert connection.predict(IMAGES[:1]).status == 200


# --- faults


def test_a_killed_replica_comes_back_by_itself_with_the_promoted_model(
    service: Service,
    bundles: Bundles,
    first: str,
    expected: dict[str, NDArray[np.float32]],
    tell: Callable[[str], None],
) -> None:
    second = bundles.version(bundles.second)
    reply = service.admin("promote", bundle=str(bundles.second), allowed_accuracy_drop=1)
    assert reply.status == 200
    load = Load(expected, IMAGES)
    with load.on(service.port, connections=4, may_refuse=True):
        time.sleep(1)
        victim = service.replica_process()
        victim.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        name = service_replicas(service, until=killed + 60, other_than=set())
        assert gone([victim], 10) == []
        seconds = time.monotonic() - killed
        time.sleep(1)
    tell(
        f"replica killed under load, back after {seconds:.1f} s: {load.figures()}",
    )
    assert name
    assert load.mixed == [] and set(load.answers) == {second}
    assert service.version == second
    assert service.replica_process().pid != victim.pid
    # The dead one counts until it has been silent for 6 s; until then nothing is changed.
    until = time.monotonic() + 20
    while (told := service.admin("rollback")).status == 503 and time.monotonic() < until:
        assert told.headers["Retry-After"]
        time.sleep(1)
    assert told.status == 200, told
    assert service.version == first


def service_replicas(service: Service, until: float, other_than: set[str]) -> set[str]:
    """The names of the replicas that answer, once one does again."""
    while time.monotonic() < until:
        try:
            with service.connect(timeout=2) as connection:
                reply = connection.ask("GET", "/admin/status")
            if reply.status == 200:
                return {each["replica"] for each in reply.json["replicas"]} - other_than
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.1)
    raise AssertionError("no replica came back")


def test_a_killed_coordinator_costs_no_request_and_forgets_no_promotion(
    service: Service,
    bundles: Bundles,
    first: str,
    expected: dict[str, NDArray[np.float32]],
) -> None:
    second = bundles.version(bundles.second)
    assert (
        service.admin("promote", bundle=str(bundles.second), allowed_accuracy_drop=1).status == 200
    )
    load = Load(expected, IMAGES)
    with load.on(service.port, connections=4):
        coordinator = next(
            each for each in service.command.family() if "coordinator" in " ".join(each.cmdline())
        )
        coordinator.send_signal(signal.SIGKILL)
        until = time.monotonic() + 60
        status: Any = {}
        while time.monotonic() < until:
            reply = service.ask("GET", "/admin/status")
            if reply.status == 200 and reply.json["replicas"]:
                status = reply.json
                break
            time.sleep(0.2)
    assert (load.failed, load.mixed) == ([], [])
    assert status["model"]["version"] == second
    assert [each["version"] for each in status["replicas"]] == [second]
    assert service.admin("rollback").status == 200
    assert service.version == first


@pytest.mark.parametrize("victim", ["coordinator", "replica"])
def test_a_promotion_killed_halfway_leaves_one_model_and_mixes_no_answer(
    service: Service,
    bundles: Bundles,
    first: str,
    expected: dict[str, NDArray[np.float32]],
    victim: str,
    tell: Callable[[str], None],
) -> None:
    second = bundles.version(bundles.second)
    order = {"bundle": str(bundles.second), "allowed_accuracy_drop": 1}
    undisturbed = service.admin("promote", **order)
    assert (undisturbed.status, service.admin("rollback").status) == (200, 200)
    told: list[Reply | None] = []

    def promote() -> None:
        try:
            told.append(service.admin("promote", **order))
        except (OSError, http.client.HTTPException):
            told.append(None)  # the connection broke

    killed = (
        service.replica_process()
        if victim == "replica"
        else next(each for each in service.command.family() if victim in " ".join(each.cmdline()))
    )
    load = Load(expected, IMAGES)
    promotion = threading.Thread(target=promote)
    with load.on(service.port, connections=4, may_refuse=True):
        promotion.start()
        time.sleep(undisturbed.seconds / 2)
        assert not told
        killed.send_signal(signal.SIGKILL)
        promotion.join(90)
        (reply,) = told
        serves, replicas = at_rest(service, {first: bundles.first, second: bundles.second})
        rested = time.monotonic()
        time.sleep(0.5)
    said = "connection broken" if reply is None else f"{reply.status} {reply.body[:150]!r}"
    tell(
        f"{victim} killed {500 * undisturbed.seconds:.0f} ms into a promotion, which was told: "
        f"{said}; then {'the new' if serves == second else 'the old'} model: {load.figures()}"
    )
    assert load.mixed == [] and set(load.answers) <= {first, second}
    assert replicas == {serves}
    assert {version for began, version in load.begun if began > rested} == {serves}
    if victim == "coordinator":
        assert load.failed == []
    if reply is not None and reply.status == 200:
        assert serves == second
    elif reply is not None and b"ask for the status" not in reply.body:
        assert serves == first


def at_rest(service: Service, bundles: dict[str, Path]) -> tuple[str, set[str]]:
    """The version served, and by replicas, once no promotion is under way any more.

    It isn't when what is served can be promoted again, which changes nothing.
    """
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            serves = service.version
            reply = service.admin("promote", bundle=str(bundles[serves]), allowed_accuracy_drop=1)
            if reply.status == 200 and reply.json["model"]["version"] == serves:
                return serves, {each["version"] for each in reply.json["replicas"]}
        except (OSError, http.client.HTTPException, KeyError, ValueError):
            pass
        time.sleep(0.1)
    raise AssertionError("the service never came to rest")


# --- a token, and the end


def test_with_a_token_and_until_the_end(
    tmp_path: Path, bundles: Bundles, expected: dict[str, NDArray[np.float32]]
) -> None:
    """One service: its token is asked for and told nowhere; Ctrl-C lets it finish its work."""
    directory = tmp_path / "service"
    directory.mkdir()
    file = directory / "token"
    file.write_text(TOKEN + "\n")
    temporary = directory / "t"
    temporary.mkdir()
    # Said as in the README, "python -m distributed_fmlp.serve": the newest finished run's model.
    results = tmp_path / "results"
    for name, bundle, day in (("new", bundles.first, 21), ("old", bundles.second, 20)):
        run = make_run(results / name, rates=(0.001,), images=20, created=DAY.format(day))
        shutil.copytree(bundle, run / "bundle")
    words = ("--results", str(results), "--token-file", str(file))
    before = set(Path("/tmp").glob("fmlp-*"))
    with running_service(directory, *words, token=TOKEN) as service:
        assert service.version == bundles.version(bundles.first)
        check_token(service, "--token-file", str(file))
        family = service.command.family()
        own_directory = check_token_is_told_nowhere(service)
        assert own_directory in set(Path("/tmp").glob("fmlp-*")) - before
        stop_with_a_request_under_way(service)
        assert gone(family) == []
        assert not own_directory.exists()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), 5)


def stop_with_a_request_under_way(service: Service) -> None:
    """Ctrl-C, as a terminal sends it: to every process of the group."""
    replies: list[Any] = []

    def ask() -> None:
        with service.connect() as connection:
            replies.append(connection.ask("POST", "/predict", slowly(), OCTETS))

    body = np.tile(IMAGES, (64, 1)).tobytes()
    halfway = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        halfway.set()
        time.sleep(0.7)
        yield body[len(body) // 2 :]

    client = threading.Thread(target=ask)
    client.start()
    assert halfway.wait(20)
    os.killpg(service.command.process.pid, signal.SIGINT)
    client.join(60)
    assert [reply.status for reply in replies] == [200], replies
    assert service.command.finish(60) == 0
    assert service.command.lines[-1] == "Stopped.\n"


# --- without HAProxy


def test_without_haproxy_it_predicts_promotes_refuses_and_stays_on_loopback(
    tmp_path: Path,
    bundles: Bundles,
    expected: dict[str, NDArray[np.float32]],
    tell: Callable[[str], None],
) -> None:
    words = (str(bundles.first), "--no-haproxy", "--max-queued", "4")
    with running_service(tmp_path, *words) as service:
        names = {process.name() for process in service.command.family()}
        assert not any("haproxy" in name.lower() for name in names)
        addresses = {
            address.removeprefix("::ffff:")
            for address, _ in listening_addresses(service.command.family())
        }
        assert addresses <= {"127.0.0.1", "::1"}
        load = Load(expected, IMAGES)
        with load.on(service.port, connections=3):
            time.sleep(0.5)
            reply = service.admin("promote", bundle=str(bundles.second), allowed_accuracy_drop=1)
            assert reply.status == 200, reply.body
            time.sleep(0.5)
        tell(f"without HAProxy, one promotion under load: {load.figures()}")
        assert (load.failed, load.mixed) == ([], [])
        assert set(load.answers) == set(expected)
        flood = Load(expected, IMAGES)
        with flood.on(service.port, connections=24, may_refuse=True):
            time.sleep(2)
        tell(f"24 connections, 4 requests held at once: {flood.figures()}")
        assert (flood.failed, flood.mixed) == ([], []) and flood.refused > 0
        with service.connect() as connection:
            assert connection.predict(IMAGES[:1]).status == 200
            for path in ("/nothing", "/-/routes"):
                assert_error(connection.ask("GET", path), 404, server="uvicorn")
