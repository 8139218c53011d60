"""What the service counts, and one exposition for several replicas."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from distributed_fmlp.serving.metrics import Metrics, merge
from tests.serving.stand_in_engine import CLASS_NAMES, MODEL, StandInEngine, ask, service


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels; each may be there once, each family too."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def sample(text: bytes, name: str, **labels: str) -> float:
    return samples(text).get((name, frozenset(labels.items())), 0.0)


def test_requests_are_counted_by_route_and_status() -> None:
    engine = StandInEngine()
    app = service(engine)
    octets = {"Content-Type": "application/octet-stream"}
    for body in (b"\0" * 784, b"\0" * 784, b"\0"):
        ask(app, "POST", "/predict", content=body, headers=octets)
    ask(app, "GET", "/v2/models/fmlp/versions/abc")
    ask(app, "GET", "/wp-login.php")
    ask(app, "GET", "/another/unknown/path")
    text = ask(app, "GET", "/metrics").content
    count = "fmlp_requests_total"
    assert sample(text, count, route="/predict", status="200", replica="r1") == 2
    assert sample(text, count, route="/predict", status="400", replica="r1") == 1
    versioned = "/v2/models/fmlp/versions/{version}"
    assert sample(text, count, route=versioned, status="404", replica="r1") == 1
    assert sample(text, count, route="unknown", status="404", replica="r1") == 2
    assert sample(text, "fmlp_request_seconds_count", route="/predict", replica="r1") == 3
    assert b"wp-login" not in text


def test_paths_that_lead_nowhere_add_no_series() -> None:
    engine = StandInEngine()
    app = service(engine)
    ask(app, "GET", "/a")
    before = len(samples(merge({"r": engine.counted.families()})))
    for number in range(20):
        ask(app, "GET", f"/v2/models/fmlp/versions/{number}/infer/x")
        ask(app, "GET", f"/static/{number}")
    assert len(samples(merge({"r": engine.counted.families()}))) == before


def test_images_are_counted_by_class_and_version() -> None:
    metrics = Metrics()
    metrics.predicted(MODEL, np.array([9, 9, 0]))
    metrics.predicted(MODEL, np.array([9]))
    text = merge({"r": metrics.families()})
    labels = {"model_version": MODEL.version, "replica": "r"}
    name = "fmlp_predicted_images_total"
    assert sample(text, name, class_name=CLASS_NAMES[9], **labels) == 3
    assert sample(text, name, class_name=CLASS_NAMES[0], **labels) == 1
    assert sum(value for (key, _), value in samples(text).items() if key == name) == 4


def test_batches_and_queue_are_observed() -> None:
    metrics = Metrics()
    for images in (1, 3, 64):
        metrics.batch(images)
    metrics.queue(7)
    text = merge({"r": metrics.families()})
    assert sample(text, "fmlp_batch_images_sum", replica="r") == 68
    assert sample(text, "fmlp_batch_images_bucket", le="2.0", replica="r") == 1
    assert sample(text, "fmlp_batch_images_bucket", le="4.0", replica="r") == 2
    assert sample(text, "fmlp_queued_requests", replica="r") == 7


def test_replicas_merge_into_one_exposition_that_parses() -> None:
    one, two = Metrics(), Metrics()
    for _ in range(3):
        one.request("/predict", 200, 0.003)
    two.request("/predict", 200, 0.003)
    two.predicted(MODEL, np.array([1]))
    carried = pickle.loads(pickle.dumps(two.families()))  # as Ray carries it between replicas
    text = merge({"a": one.families(), 'b"\n\\': carried})
    count = "fmlp_requests_total"
    assert sample(text, count, route="/predict", status="200", replica="a") == 3
    assert sample(text, count, route="/predict", status="200", replica='b"\n\\') == 1
    assert text.count(b"# TYPE fmlp_requests_total counter") == 1
    assert b"_created" not in text
    assert merge({}) == b""


def test_the_exposition_says_its_format() -> None:
    answer = ask(service(StandInEngine()), "GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_two_sets_of_metrics_are_apart() -> None:
    one, two = Metrics(), Metrics()
    one.batch(5)
    assert sample(merge({"r": two.families()}), "fmlp_batch_images_sum", replica="r") == 0


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 11.0])
def test_any_latency_falls_into_a_bucket(seconds: float) -> None:
    metrics = Metrics()
    metrics.request("/predict", 200, seconds)
    text = merge({"r": metrics.families()})
    name = "fmlp_request_seconds_bucket"
    assert sample(text, name, route="/predict", le="+Inf", replica="r") == 1
