"""What a path leads to, and what all routes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from distributed_fmlp.serving.compression import compress_response
from distributed_fmlp.serving.engine import Engine, ServedModel, ServiceStatus
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import SMALL_BODY, Bodies, Headers, Request, Response
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.offloading import Workers

Handler = Callable[[Request], Awaitable[Response]]
_WORTH_COMPRESSING = 4096


@dataclass(frozen=True, slots=True)
class Route:
    """One path's handlers by method (GET answers HEAD too); `label` names it in the metrics."""

    label: str
    handlers: Mapping[str, Handler]
    needs_token: bool = True
    is_admin: bool = False
    gate: Handler | None = None  # answers a browser that shows no token
    allow: str = field(init=False)

    def __post_init__(self) -> None:
        methods = [*self.handlers, *(["HEAD"] if "GET" in self.handlers else [])]
        object.__setattr__(self, "allow", ", ".join(sorted(methods)))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the routes work with."""

    engine: Engine
    bodies: Bodies
    workers: Workers
    limits: Limits
    model_name: str
    deadline_seconds: float

    def model(self) -> ServedModel:
        """The model served; `RequestError` 503 while there is none."""
        model = self.engine.model
        if model is None:
            raise RequestError(503, "no model is ready yet")
        return model

    def admit(self) -> float:
        """Until when a prediction whose body is there may be computed, on time.monotonic's clock.

        To be asked before the body is decoded: `RequestError` 503 where there is no room for it.
        """
        self.engine.check_capacity()
        return monotonic() + self.deadline_seconds

    async def prediction_response(
        self, request: Request, body: bytes, content_type: bytes, headers: Headers
    ) -> Response:
        """The answer to a prediction, compressed where it is large and that is asked for."""
        encoding = None
        accepted = request.header(b"accept-encoding")
        if accepted and len(body) >= _WORTH_COMPRESSING:
            if len(body) > SMALL_BODY:
                plain = body
                body, encoding = await self.workers.run(lambda: compress_response(plain, accepted))
            else:
                body, encoding = compress_response(body, accepted)
        sent: Headers = [(b"content-type", content_type), *headers]
        if encoding:
            sent += [(b"content-encoding", encoding.encode()), (b"vary", b"Accept-Encoding")]
        return Response(200, body, sent)


def content_encoding(request: Request) -> str | None:
    """The body's `Content-Encoding`; None where it was sent as it is."""
    value = request.header(b"content-encoding")
    return None if value is None or value.strip().lower() in ("", "identity") else value


def plain_facts(status: ServiceStatus) -> dict[str, Any]:
    """A `ServiceStatus` as JSON values."""
    compared = status.accuracy
    return {
        "model": status.model.facts(),
        "previous": status.previous,
        "ready": status.ready,
        "replicas": [dict(replica) for replica in status.replicas],
        "accuracy": None
        if compared is None
        else {
            "compared": compared.reason is None,
            "before": compared.before,
            "promoted": compared.promoted,
            "reason": compared.reason,
        },
        "facts": dict(status.facts),
    }
