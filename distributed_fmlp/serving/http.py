"""The service over HTTP, as a plain ASGI application: routes, access, errors, metrics.

It knows neither Ray nor torch: what computes is behind `Engine`. There is no framework, as a
request of one image is answered in less time than frameworks take to route it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter

import orjson

from distributed_fmlp.serving.access import check_host, check_local, check_token, shows_token
from distributed_fmlp.serving.admin_routes import AdminRoutes
from distributed_fmlp.serving.engine import Engine
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import (
    INTERNAL_ERROR,
    SMALL_BODY,
    TOO_MUCH_UNREAD,
    Bodies,
    BodyRefused,
    ClientGone,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    drain,
    error_response,
    json_response,
)
from distributed_fmlp.serving.guarded_page import guarded_page
from distributed_fmlp.serving.infer_routes import InferRoutes
from distributed_fmlp.serving.limits import LARGEST_BODY, Limits
from distributed_fmlp.serving.metrics import CONTENT_TYPE, Metrics
from distributed_fmlp.serving.offloading import Workers
from distributed_fmlp.serving.openapi import openapi_document
from distributed_fmlp.serving.page_files import page_files
from distributed_fmlp.serving.predict_route import PredictRoute
from distributed_fmlp.serving.routing import Route, Surroundings
from distributed_fmlp.serving.served_facts import served_facts

logger = logging.getLogger(__name__)

_UNKNOWN = "unknown"  # the metrics' label for every path that leads nowhere
_CLIENT_GONE = 499


@dataclass(frozen=True)
class HttpSettings:
    """How the service answers."""

    token: bytes | None = field(default=None, repr=False)  # None: no token is asked for
    limits: Limits = field(default_factory=Limits)
    is_local: bool = True  # whether it listens on loopback alone; else /admin needs a token
    allowed_hosts: frozenset[str] = frozenset()  # names for /admin without a token; no ports
    model_name: str = "fmlp"
    body_seconds: float = 60.0  # a body must be there by then
    body_patience_seconds: float = 2.0  # how long it may stand still where others have no room
    body_budget_bytes: int = LARGEST_BODY  # of all bodies above 64 KiB at one time
    answer_budget_bytes: int = LARGEST_BODY  # of all answers above 64 KiB that are yet to be read
    decode_threads: int = 2
    most_waiting_decodes: int = 64
    deadline_seconds: float = 10.0  # from when a body is there; what is older is not computed

    def __post_init__(self) -> None:
        hosts = frozenset(host.lower() for host in self.allowed_hosts)
        object.__setattr__(self, "allowed_hosts", hosts)
        if self.token == b"":
            raise ValueError("the token is empty; None means that none is asked for")


class HttpService:
    """The ASGI application. Make it where it runs: it holds threads and can't be pickled."""

    def __init__(
        self, engine: Engine, settings: HttpSettings, metrics: Metrics | None = None
    ) -> None:
        """`metrics` are those that the engine counts with too; new ones without it."""
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._bodies = Bodies(
            settings.limits,
            seconds=settings.body_seconds,
            budget=settings.body_budget_bytes,
            patience=settings.body_patience_seconds,
        )
        self._unread = 0  # bytes of large answers that their clients have yet to read
        self._workers = Workers(settings.decode_threads, settings.most_waiting_decodes)
        self._around = Surroundings(
            engine,
            self._bodies,
            self._workers,
            settings.limits,
            settings.model_name,
            settings.deadline_seconds,
        )
        self._infer = InferRoutes(self._around)
        self._routes: Mapping[str, Route] = {
            **self._infer.exact,
            **PredictRoute(self._around).exact,
            **AdminRoutes(self._around).exact,
            **self._page_routes(),
            "/model": Route("/model", {"GET": self._model}),
            "/metrics": Route("/metrics", {"GET": self._exposition}),
            "/openapi.json": Route("/openapi.json", {"GET": self._openapi}),
        }
        self._document = orjson.dumps(
            openapi_document(
                settings.model_name, settings.limits, needs_token=settings.token is not None
            )
        )

    @property
    def is_ready(self) -> bool:
        """Whether there is a model that may answer."""
        return self._around.engine.model is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        began = perf_counter()
        request = Request(scope, receive)
        label, refused = _UNKNOWN, False
        try:
            route = self._route(request)
            label = route.label
            response = await self._answer(route, request)
        except RequestError as error:
            response, refused = error_response(error), isinstance(error, BodyRefused)
        except ClientGone:
            self._metrics.request(label, _CLIENT_GONE, perf_counter() - began)
            return
        except Exception:
            logger.exception("a request to %s failed", label)
            response = INTERNAL_ERROR
        finally:
            if request.held:
                self._bodies.release(request)
        size = len(response.body) if request.method != "HEAD" else 0
        if size > SMALL_BODY and self._unread + size > self._settings.answer_budget_bytes:
            response, size = TOO_MUCH_UNREAD, 0
        self._metrics.request(label, response.status, perf_counter() - began)
        if size > SMALL_BODY:
            await self._send_counted(response, send)
            return
        await response.send(send, with_body=request.method != "HEAD", last=not refused)
        if refused:
            await drain(receive, 2 * self._settings.limits.max_body_bytes)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_counted(self, response: Response, send: Send) -> None:
        """A large answer: it counts until its client has read it, or has gone."""
        size = len(response.body)
        self._unread += size
        try:
            await response.send(send, last=False)
            # The server takes this only when most of what was sent before has left.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._unread -= size

    def _route(self, request: Request) -> Route:
        """Where the path leads. What is not here is told only to who shows the token."""
        try:
            route = self._routes.get(request.path) or self._infer.route(request)
            if route is None:
                raise RequestError(404, "there is nothing at this path")
        except RequestError:
            if self._settings.token is not None:
                check_token(request, self._settings.token)
            raise
        return route

    async def _answer(self, route: Route, request: Request) -> Response:
        method = request.method
        token = self._settings.token
        if token is not None and route.needs_token and not shows_token(request, token):
            if route.gate is not None and b"text/html" in request.headers.get(b"accept", b""):
                return await route.gate(request)
            check_token(request, token)
        handler = route.handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            message = f"this path takes {route.allow}"
            raise RequestError(405, message, headers={"Allow": route.allow})
        if token is None and route.is_admin:
            check_local(self._settings.is_local)
            check_host(request, self._settings.allowed_hosts)
        return await handler(request)

    def _page_routes(self) -> dict[str, Route]:
        files = page_files()
        routes = {
            f"/static/{name}": Route("/static", {"GET": file.answer})
            for name, file in files.items()
        }
        for path, name in (("/", "index.html"), ("/docs", "docs.html")):
            if self._settings.token is None:
                routes[path] = Route(path, {"GET": files[name].answer})
            else:
                guarded = guarded_page(name, files)
                routes[path] = Route(path, {"GET": guarded.page.answer}, gate=guarded.gate.refuse)
        return routes

    async def _model(self, request: Request) -> Response:
        facts = served_facts(self._around.model())
        return json_response(facts.with_class_names, headers=facts.headers)

    async def _exposition(self, request: Request) -> Response:
        text = await self._around.engine.metrics()
        return Response(200, text, [(b"content-type", CONTENT_TYPE.encode())])

    async def _openapi(self, request: Request) -> Response:
        return json_response(self._document)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The server's start and end; anything but HTTP, such as a WebSocket, is closed."""
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                if message["type"] == "lifespan.startup":
                    await send({"type": "lifespan.startup.complete"})
                elif message["type"] == "lifespan.shutdown":
                    self._workers.stop()
                    await send({"type": "lifespan.shutdown.complete"})
                    return
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003})
