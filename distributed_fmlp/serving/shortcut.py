"""The way from a replica's HTTP server straight to the service, past Ray Serve's own bookkeeping.

For each request Ray makes two identifiers, a context and some metrics, which takes as long as all
of this service's own work on an image. What of that is needed here the service does itself: it
bounds its queue, counts its requests, and its server finishes what is under way before a replica
ends. Only for a fixed number of replicas: autoscaling goes by Ray's count.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.middleware import Middleware

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import Receive, Scope, Send, error_response
from distributed_fmlp.serving.haproxy import ERRORS

_RAYS_OWN = "/-/"  # its health checks
_TAKES_NO_MORE = error_response(RequestError(404, "this replica takes no requests now"))
_ROUTES = "/-/routes"  # tells anyone which applications Ray has, a token or not
HEALTH = "/-/healthz"  # HAProxy's question whether to send requests here

_service: Any = None  # of this process, where it is a replica


def offer(service: Any) -> None:
    """Let this process' requests go to an ASGI application directly."""
    global _service
    _service = service


def is_replica() -> bool:
    """Whether this process answers for the service."""
    return _service is not None


async def answer_health(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
    """What Ray says of this replica, but 404 for 503, and 404 while it may not answer.

    HAProxy, as it is configured here, then sends it nothing more, lets it end what it has begun,
    and, where it was lost, doesn't send it anything before it may answer.
    """
    if not _service.is_ready:
        await _TAKES_NO_MORE.send(send)
        return
    replaced = False

    async def send_as_haproxy_knows(message: MutableMapping[str, Any]) -> None:
        nonlocal replaced
        if message.get("status") == 503:
            replaced = True
            await _TAKES_NO_MORE.send(send)
        if not replaced:
            await send(message)

    await app(scope, receive, send_as_haproxy_knows)


class Shortcut:
    """ASGI middleware around what Ray has its server run."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].lower() == _ROUTES:
            await error_response(RequestError(404, ERRORS[404])).send(send)
        elif _service is None or scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(_RAYS_OWN):
            await answer_health(self._app, scope, receive, send)
        else:
            await _service(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names and Ray calls, in its proxy too."""
    return [Middleware(Shortcut)]
