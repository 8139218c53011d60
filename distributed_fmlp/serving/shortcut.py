"""The way from a replica's HTTP server straight to the service, past Ray Serve's own bookkeeping.

For each request Ray makes two identifiers, a context and some metrics, which takes as long as all
of this service's own work on an image. What of that is needed here the service does itself: it
bounds its queue, counts its requests, and its server finishes what is under way before a replica
ends. Only for a fixed number of replicas: autoscaling goes by Ray's count.
"""

from __future__ import annotations

from typing import Any

from starlette.middleware import Middleware

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import Receive, Scope, Send, error_response
from distributed_fmlp.serving.haproxy import ERRORS

_RAYS_OWN = "/-/"  # its health checks
_ROUTES = "/-/routes"  # tells anyone which applications Ray has, a token or not

_service: Any = None  # of this process, where it is a replica


def offer(service: Any) -> None:
    """Let this process' requests go to an ASGI application directly."""
    global _service
    _service = service


class Shortcut:
    """ASGI middleware around what Ray has its server run."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].lower() == _ROUTES:
            await error_response(RequestError(404, ERRORS[404])).send(send)
        elif _service is None or scope["type"] != "http" or scope["path"].startswith(_RAYS_OWN):
            await self._app(scope, receive, send)
        else:
            await _service(scope, receive, send)


def middlewares() -> list[Middleware]:
    """What RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names and Ray calls, in its proxy too."""
    return [Middleware(Shortcut)]
