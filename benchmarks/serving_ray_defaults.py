"""A rival: Ray Serve as it is without any setting, batching as its documentation shows.

Only `max_ongoing_requests` is raised from its default of 5, below which no batch could fill.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray import serve
from serving_network import (
    BATCH_SIZE,
    BATCH_WAIT_SECONDS,
    answer,
    image_of,
    images_of,
    load_network,
)
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=256)
class Classifier:
    """Answers /raw, /json and /binary."""

    def __init__(self) -> None:
        self.network = load_network()

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def classify(self, images: list[npt.NDArray[np.uint8]]) -> list[Any]:
        """Probabilities of several requests' images, computed together."""
        probabilities, _ = self.network(np.concatenate(images))
        return np.split(probabilities, np.cumsum([len(each) for each in images])[:-1])

    async def __call__(self, request: Request) -> Any:
        if request.url.path == "/json":
            given = await request.json()
            images = np.stack([image_of(each) for each in given["instances"]])
        else:
            images = images_of(await request.body())
        probabilities = await self.classify(images)
        if request.url.path == "/binary":
            return Response(probabilities.tobytes(), media_type="application/octet-stream")
        return answer(self.network, probabilities)


if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind(), route_prefix="/")
    threading.Event().wait()
