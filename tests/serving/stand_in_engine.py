"""An engine without a server: the softmax of one fixed random linear layer, really computed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from distributed_fmlp.serving.engine import (
    Answer,
    Images,
    PromotionRequest,
    ServedModel,
    ServiceStatus,
)
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.http import HttpService, HttpSettings
from distributed_fmlp.serving.metrics import Metrics, merge

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MODEL = ServedModel(
    version="3fa9c1d20b77",
    sha256="3fa9c1d20b77" + "0" * 52,
    class_names=CLASS_NAMES,
    learning_rate=0.001,
    seed=0,
    epoch=17,
    dataset="fashion-mnist",
    dataset_sha256="ab" * 32,
    source_commit="c0ffee" * 6,
    val_accuracy=0.9032,
    test_accuracy=0.8971,
)
LAYER = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)


def expected(images: Images) -> NDArray[np.float32]:
    """The probabilities, float32 `[N, 10]`, that belong to images `[N, 784]`."""
    scale = np.float32(255 if images.dtype == np.uint8 else 1)
    logits = images.astype(np.float32) / scale @ LAYER
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass
class StandInEngine:
    """Keeps what it was asked; `failure` is raised, `delay` seconds are waited.

    `full` refuses what comes before it is decoded.
    """

    served: ServedModel | None = MODEL
    failure: Exception | None = None
    full: bool = False
    delay: float = 0.0
    cancelled: int = 0
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    orders: list[PromotionRequest] = field(default_factory=list)
    before: ServedModel | None = None
    counted: Metrics = field(default_factory=Metrics)

    @property
    def model(self) -> ServedModel | None:
        return self.served

    def check_capacity(self) -> None:
        if self.full:
            raise RequestError(503, "over capacity", headers={"Retry-After": "7"})

    async def predict(self, images: Images, deadline: float) -> Answer:
        assert images.ndim == 2 and images.shape[1] == 784 and images.flags.c_contiguous
        assert images.dtype in (np.uint8, np.float32)
        self.shapes.append(images.shape)
        self.deadlines.append(deadline)
        await self._wait()
        if self.failure:
            raise self.failure
        if self.served is None:
            raise RequestError(503, "no model is ready yet")
        probabilities = expected(images)
        labels = probabilities.argmax(axis=1).astype(np.int64)
        self.counted.batch(len(images))
        self.counted.predicted(self.served, labels)
        return Answer(self.served, probabilities, labels)

    async def _wait(self) -> None:
        if self.delay:
            try:
                await asyncio.sleep(self.delay)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    async def promote(self, request: PromotionRequest) -> ServiceStatus:
        self.orders.append(request)
        await self._wait()
        if self.failure:
            raise self.failure
        self.before, self.served = self.served, replace(MODEL, version="b" * 12, seed=1)
        return await self.status()

    async def rollback(self) -> ServiceStatus:
        if self.before is None:
            raise RequestError(409, "there is no model to go back to")
        self.before, self.served = None, self.before
        return await self.status()

    async def status(self) -> ServiceStatus:
        if self.served is None:
            raise RequestError(503, "no model is ready yet")
        before = self.before.version if self.before else None
        return ServiceStatus(self.served, before, True, ({"replica": "r1"},), {"replicas": 1})

    async def metrics(self) -> bytes:
        return merge({"r1": self.counted.families()})


def service(engine: StandInEngine, **settings: Any) -> HttpService:
    return HttpService(engine, HttpSettings(**settings), engine.counted)


def ask(app: HttpService, method: str, path: str, **options: Any) -> httpx.Response:
    """One request to the application in this process."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


def error_of(response: httpx.Response, status: int) -> str:
    """The error's text, after checking that it looks as clients need it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: Mapping[str, Any] = response.json()
    assert isinstance(body["error"], str) and body["error"]
    return str(body["error"])


@contextmanager
def listening(app: HttpService) -> Iterator[int]:
    """The application behind a real uvicorn on a free loopback port."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", server_header=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until and thread.is_alive(), "uvicorn did not start"
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
