"""The Open Inference Protocol's calls under /v2: health, metadata, inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from distributed_fmlp.serving.compression import decompress
from distributed_fmlp.serving.engine import Answer
from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.exchange import SMALL_BODY, Request, Response, json_response
from distributed_fmlp.serving.metadata import (
    model_health,
    model_metadata,
    server_health,
    server_metadata,
)
from distributed_fmlp.serving.offloading import unless_client_leaves
from distributed_fmlp.serving.protocol import (
    JSON_LENGTH_HEADER,
    InferRequest,
    Prediction,
    decode_infer,
    encode_infer,
    parse_json_length,
)
from distributed_fmlp.serving.routing import Route, Surroundings, content_encoding
from distributed_fmlp.serving.served_facts import ServedFacts, is_traced, served_facts

SERVER_NAME = "distributed_fmlp"
PROTOCOL_VERSION = "2"  # the protocol wants a version; that of the software is nobody's business
_MANY_IMAGES = 512
_JSON_LENGTH = JSON_LENGTH_HEADER.lower().encode()


class InferRoutes:
    """`/v2` and below. A path that names a version is answered by that version or not at all."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        model = f"/v2/models/{around.model_name}"
        version = f"{model}/versions/{{version}}"
        self.exact: Mapping[str, Route] = {
            "/v2": Route("/v2", {"GET": self._server}),
            "/v2/health/live": Route("/v2/health/live", {"GET": self._live}, needs_token=False),
            "/v2/health/ready": Route("/v2/health/ready", {"GET": self._ready}, needs_token=False),
            model: Route(model, {"GET": self._metadata}),
            f"{model}/ready": Route(
                f"{model}/ready", {"GET": self._model_ready}, needs_token=False
            ),
            f"{model}/infer": Route(f"{model}/infer", {"POST": self._infer}),
        }
        self._versioned = {
            (): Route(version, {"GET": self._metadata}),
            ("ready",): Route(f"{version}/ready", {"GET": self._model_ready}, needs_token=False),
            ("infer",): Route(f"{version}/infer", {"POST": self._infer}),
        }

    def route(self, request: Request) -> Route | None:
        """The route of a path that names a version, which is noted in the request.

        Raises `RequestError` 404 for a model of another name.
        """
        match request.path.split("/"):
            case ["", "v2", "models", name, *rest] if name:
                if name != self._around.model_name:
                    served = self._around.model_name
                    message = f"there is no model {quoted(name)}; this service has {served!r}"
                    raise RequestError(404, message)
                if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
                    request.version = rest[1]
                    return self._versioned.get(tuple(rest[2:]))
        return None

    async def _server(self, request: Request) -> Response:
        return json_response(server_metadata(SERVER_NAME, PROTOCOL_VERSION))

    async def _live(self, request: Request) -> Response:
        return json_response(server_health(live=True, ready=self._around.engine.model is not None))

    async def _ready(self, request: Request) -> Response:
        ready = self._around.engine.model is not None
        if not ready:
            return _not_ready({"live": True, "ready": False})
        return json_response(server_health(live=True, ready=True))

    async def _model_ready(self, request: Request) -> Response:
        name = self._around.model_name
        if self._around.engine.model is None:
            return _not_ready({"name": name, "ready": False})
        if request.version not in (None, self._around.model().version):
            # Health asks for no token, so which version is served isn't told here.
            raise RequestError(404, f"version {quoted(request.version)} of {name!r} isn't served")
        return json_response(model_health(name, ready=True))

    async def _metadata(self, request: Request) -> Response:
        model = self._around.model()
        self._check_version(request, model.version)
        facts = served_facts(model)
        body = model_metadata(
            self._around.model_name,
            [model.version],
            classes=len(model.class_names),
            parameters=facts.parameters,
        )
        return json_response(body, headers=facts.headers)

    async def _infer(self, request: Request) -> Response:
        if request.version is not None:
            self._check_version(request, self._around.model().version)
        json_length = parse_json_length(request.header(_JSON_LENGTH))
        query = request.query()
        body = await self._around.bodies.read(request)
        deadline = self._around.admit()
        encoding = content_encoding(request)
        limits = self._around.limits
        if encoding is None and len(body) <= SMALL_BODY:
            asked = decode_infer(body, json_length=json_length, limits=limits)
        else:
            asked = await self._around.workers.run(
                lambda: decode_infer(
                    decompress(body, encoding, limits.max_body_bytes),
                    json_length=json_length,
                    limits=limits,
                ),
                deadline,
            )
        traced = is_traced(request, query) or _trace_parameter(asked.parameters)
        answer = await unless_client_leaves(
            request, self._around.engine.predict(asked.images, deadline)
        )
        # the version asked for may have been replaced while its turn came
        self._check_version(request, answer.model.version)
        return await self._answered(request, asked, answer, traced)

    async def _answered(
        self, request: Request, asked: InferRequest, answer: Answer, traced: bool
    ) -> Response:
        facts = served_facts(answer.model)
        if len(answer.labels) > _MANY_IMAGES:
            body, headers = await self._around.workers.run(
                lambda: self._encode(asked, answer, facts if traced else None)
            )
        else:
            body, headers = self._encode(asked, answer, facts if traced else None)
        sent = facts.traced_headers if traced else facts.headers
        json_length = headers.get(JSON_LENGTH_HEADER)
        if json_length is not None:
            sent = [*sent, (_JSON_LENGTH, json_length.encode())]
        content_type = headers["Content-Type"].encode()
        return await self._around.prediction_response(request, body, content_type, sent)

    def _encode(
        self, asked: InferRequest, answer: Answer, traced: ServedFacts | None
    ) -> tuple[bytes, dict[str, str]]:
        return encode_infer(
            asked,
            Prediction(answer.probabilities, answer.labels),
            answer.model.class_names,
            model_name=self._around.model_name,
            model_version=answer.model.version,
            parameters=traced.parameters if traced else None,
        )

    def _check_version(self, request: Request, served: str) -> None:
        asked = request.version
        if asked is not None and asked != served:
            name = self._around.model_name
            message = f"version {quoted(asked)} of {name!r} isn't served; {served!r} is"
            raise RequestError(404, message)


def _not_ready(state: Mapping[str, Any]) -> Response:
    body = orjson.dumps({**state, "error": "no model is ready yet"})
    return json_response(body, 503, [(b"retry-after", b"1")])


def _trace_parameter(parameters: Mapping[str, Any]) -> bool:
    value = parameters.get("trace", False)
    if type(value) is not bool:
        raise RequestError(400, f"the parameter trace is {quoted(value)}; it must be a boolean")
    return value
