"""`POST /predict`, for people and the page: images in any form in, names and probabilities out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from distributed_fmlp.serving.compression import decompress
from distributed_fmlp.serving.engine import Answer, Images
from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.exchange import SMALL_BODY, Request, Response
from distributed_fmlp.serving.offloading import unless_client_leaves
from distributed_fmlp.serving.predict_input import PredictInput, decode_predict
from distributed_fmlp.serving.routing import Route, Surroundings, content_encoding
from distributed_fmlp.serving.served_facts import is_traced, served_facts

MOST_SHOWN = 256  # images whose pixels one answer may show
_MANY_IMAGES = 128
_PLAIN = (None, "application/octet-stream", "application/json", "application/x-npy")


class PredictRoute:
    """`/predict`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.exact: Mapping[str, Route] = {"/predict": Route("/predict", {"POST": self._predict})}

    async def _predict(self, request: Request) -> Response:
        query = request.query()
        traced, shows = is_traced(request, query), _shows_pixels(query)
        body = await self._around.bodies.read(request)
        deadline = self._around.admit()
        asked = await self._decoded(request, body, query, deadline)
        count = len(asked.images)
        if shows and count > MOST_SHOWN:
            raise RequestError(400, f"pixels are shown for {MOST_SHOWN} images, not {count}")
        answer = await unless_client_leaves(
            request, self._around.engine.predict(asked.images, deadline)
        )
        shown = asked.images if shows else None
        if count > _MANY_IMAGES:
            text = await self._around.workers.run(lambda: encode_predict(answer, shown))
        else:
            text = encode_predict(answer, shown)
        facts = served_facts(answer.model)
        headers = facts.traced_headers if traced else facts.headers
        return await self._around.prediction_response(request, text, b"application/json", headers)

    async def _decoded(
        self, request: Request, body: bytes, query: Mapping[str, str], deadline: float
    ) -> PredictInput:
        kind = request.header(b"content-type")
        encoding = content_encoding(request)
        limits = self._around.limits
        # a picture of few bytes may be one of many pixels
        if encoding is None and len(body) <= SMALL_BODY and kind in _PLAIN:
            return decode_predict(body, kind, query, limits)
        return await self._around.workers.run(
            lambda: decode_predict(
                decompress(body, encoding, limits.max_body_bytes), kind, query, limits
            ),
            deadline,
        )


def encode_predict(answer: Answer, shown: Images | None = None) -> bytes:
    """The JSON answer; `shown` are the images whose pixels (0 to 255) go into it."""
    names = answer.model.class_names
    predictions: list[dict[str, Any]] = []
    for label, row in zip(answer.labels.tolist(), answer.probabilities.tolist(), strict=True):
        predictions.append(
            {
                "label": label,
                "class_name": names[label],
                "probability": row[label],
                "probabilities": dict(zip(names, row, strict=True)),
            }
        )
    if shown is not None:
        pixels = shown if shown.dtype == np.uint8 else np.rint(shown * 255).astype(np.uint8)
        for prediction, image in zip(predictions, pixels.tolist(), strict=True):
            prediction["pixels"] = image
    return orjson.dumps({"model": served_facts(answer.model).json, "predictions": predictions})


def _shows_pixels(query: Mapping[str, str]) -> bool:
    value = query.get("show")
    if value not in (None, "pixels"):
        raise RequestError(400, f"show is {quoted(value)}; it must be pixels")
    return value is not None
