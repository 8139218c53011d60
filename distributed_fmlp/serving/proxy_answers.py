"""What Ray Serve's own proxy says by itself, in this service's words, where no HAProxy does that.

Ray answers in plain text when it refuses a request, loses a replica or knows no route, and what it
says may hold a traceback or the names of its applications. Ray puts the middlewares that
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names around its proxy.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.middleware import Middleware

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import Receive, Scope, Send, error_response
from distributed_fmlp.serving.haproxy import ERRORS
from distributed_fmlp.serving.shortcut import HEALTH, answer_health, is_replica

_ROUTES = "/-/routes"  # which applications Ray has is nobody's business

_OWN_KINDS = (b"application/json", b"text/html")  # of HTML the page that asks for the token


class ProxyAnswers:
    """ASGI middleware: an error in Ray's form becomes `{"error": …}`; the service's own pass."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"].lower() == _ROUTES:
            await error_response(RequestError(404, ERRORS[404])).send(send)
            return
        if scope["path"] == HEALTH and is_replica():
            await answer_health(self._app, scope, receive, send)
            return
        replaced = False

        async def send_in_own_words(message: MutableMapping[str, Any]) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start":
                headers = {bytes(name).lower(): bytes(text) for name, text in message["headers"]}
                kind = headers.get(b"content-type", b"")
                if message["status"] >= 400 and not kind.startswith(_OWN_KINDS):
                    replaced = True
                    await _own_answer(message["status"], headers).send(send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, send_in_own_words)


def middlewares() -> list[Middleware]:
    """What Ray calls."""
    return [Middleware(ProxyAnswers)]


def _own_answer(status: int, headers: MutableMapping[bytes, bytes]) -> Any:
    kept = {}
    if b"retry-after" in headers:
        kept["Retry-After"] = headers[b"retry-after"].decode("latin-1")
    what = ERRORS.get(status, ERRORS[400] if status < 500 else ERRORS[500])
    return error_response(RequestError(status, what, headers=kept))
