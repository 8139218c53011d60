"""What a replica counts, for Prometheus: requests, latency, batches, queue, images by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from distributed_fmlp.serving.engine import ServedModel

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
REPLICA = "replica"
_SECONDS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10,
)  # fmt: skip
_BATCH_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Sample = tuple[str, Mapping[str, str], float]  # name, labels, value
Family = tuple[str, str, str, Sequence[Sample]]  # name, help, type, samples: plain, so picklable


class Metrics:
    """One replica's metrics, in a registry of their own.

    The HTTP side counts requests; the model side images, batches and its queue.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "fmlp_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "fmlp_request_seconds",
            "Seconds from a request's head to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._by_request: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._batches = Histogram(
            "fmlp_batch_images",
            "Images computed together.",
            buckets=_BATCH_IMAGES,
            registry=self.registry,
        )
        self._queued = Gauge(
            "fmlp_queued_requests",
            "Requests in the queue or being computed.",
            registry=self.registry,
        )
        self._predicted = Counter(
            "fmlp_predicted_images",
            "Images answered, by the class predicted and the model's version.",
            ("class_name", "model_version"),
            registry=self.registry,
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request answered; `route` must be one of a fixed few names, never a path as sent."""
        key = route, status
        if key not in self._by_request:  # looking labels up costs more than counting
            self._by_request[key] = (
                self._requests.labels(route, str(status)),
                self._seconds.labels(route),
            )
        requests, latency = self._by_request[key]
        requests.inc()
        latency.observe(seconds)

    def predicted(self, model: ServedModel, labels: NDArray[np.int64]) -> None:
        """The labels, int64 `[N]`, that one model gave to one request's images."""
        names, version = model.class_names, model.version
        if len(labels) == 1:
            self._predicted.labels(names[int(labels[0])], version).inc()
            return
        for label, count in enumerate(np.bincount(labels).tolist()):
            if count:
                self._predicted.labels(names[label], version).inc(count)

    def batch(self, images: int) -> None:
        """One batch of `images` computed together."""
        self._batches.observe(images)

    def queue(self, requests: int) -> None:
        """How many requests wait or are computed now."""
        self._queued.set(requests)

    def families(self) -> list[Family]:
        """Everything counted so far as plain data, to be sent to the replica that renders it."""
        return [
            (
                metric.name,
                metric.documentation,
                metric.type,
                [
                    (sample.name, dict(sample.labels), float(sample.value))
                    for sample in metric.samples
                    if not sample.name.endswith("_created")  # a second family of timestamps each
                ],
            )
            for metric in self.registry.collect()
        ]


def merge(replicas: Mapping[str, Sequence[Family]]) -> bytes:
    """The families of several replicas, by name, as one exposition: `CONTENT_TYPE`.

    Each sample gets a label `replica`; each family appears once, as the format demands.
    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    merged: dict[str, Metric] = {}
    for replica, families in replicas.items():
        for name, documentation, kind, samples in families:
            metric = merged.setdefault(name, Metric(name, documentation, kind))
            for sample_name, labels, value in samples:
                metric.add_sample(sample_name, {**labels, REPLICA: replica}, value)
    return generate_latest(_Merged(merged))


class _Merged:
    """The part of a registry that rendering needs."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Any]:
        return iter(self._metrics.values())
