"""One HTTP exchange over ASGI: what is asked, its body within limits, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl

import orjson

from distributed_fmlp.serving.errors import RequestError, quoted
from distributed_fmlp.serving.limits import Limits, quantity

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

SMALL_BODY = 64 * 2**10  # bytes; bodies up to this are decoded at once and cost no budget
_LINGER_SECONDS = 2.0
_MOST_QUERY_FIELDS = 20
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_JSON: Headers = [(b"content-type", b"application/json"), _NOSNIFF]


class ClientGone(Exception):
    """The client closed the connection; nobody is there to be answered."""


class BodyRefused(RequestError):
    """A body that isn't read to its end: the connection can't be used for another request."""


class Request:
    """What is asked. Header names are lower-case bytes, as ASGI gives them."""

    __slots__ = ("headers", "held", "method", "path", "receive", "scope", "version")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self.scope = scope
        self.method: str = scope["method"]
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        self.path = (path.removeprefix(root) or "/") if root else path
        self.version: str | None = None  # of the model, where the path names one
        self.held = 0  # bytes of the body taken from the budget

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def query(self) -> dict[str, str]:
        """The fields of the query; the last of those given twice counts."""
        text: bytes = self.scope.get("query_string", b"")
        if not text:
            return {}
        try:
            return dict(
                parse_qsl(
                    text.decode("latin-1"),
                    keep_blank_values=True,
                    max_num_fields=_MOST_QUERY_FIELDS,
                )
            )
        except ValueError:
            message = f"the query has more than {_MOST_QUERY_FIELDS} fields"
            raise RequestError(400, message) from None


class Response:
    """What is answered; `headers` are without `content-length`, which follows from the body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes, headers: Headers) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    async def send(self, send: Send, *, with_body: bool = True, last: bool = True) -> None:
        """`with_body` false answers HEAD; `last` false leaves the exchange open."""
        headers = self.headers
        if self.status != 304:
            headers = [*headers, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = self.body if with_body else b""
        await send({"type": "http.response.body", "body": body, "more_body": not last})


def json_response(body: bytes, status: int = 200, headers: Headers | None = None) -> Response:
    """A JSON text as the answer, `application/json` exactly."""
    return Response(status, body, _JSON + headers if headers else _JSON)


def error_response(error: RequestError) -> Response:
    """`{"error": …}`; 429 and 503 say when to try again, 401 what is wanted."""
    headers = dict(error.headers)
    if error.status in (429, 503):
        headers.setdefault("Retry-After", "1")
    if error.status == 401:
        headers.setdefault("WWW-Authenticate", "Bearer")
    if isinstance(error, BodyRefused):
        headers["Connection"] = "close"
    raw = [(name.lower().encode("latin-1"), text.encode()) for name, text in headers.items()]
    return json_response(error.body(), error.status, raw)


TOO_MUCH_UNREAD = error_response(
    RequestError(503, "too many large answers are yet to be read; try again in a moment")
)
INTERNAL_ERROR = json_response(orjson.dumps({"error": "internal error"}), 500)


async def drain(receive: Receive, most: int) -> None:
    """Read on for a moment after a refusal was sent, so that its sender gets to read it.

    To close at once would reset the connection while the client still sends, and it would lose the
    answer. At most `most` bytes and two seconds are spent.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


class _Arrival:
    """A body of several pieces while it comes."""

    __slots__ = ("body", "gives_way", "moved_at", "request", "timeout")

    def __init__(self, request: Request, timeout: asyncio.Timeout) -> None:
        self.request = request
        self.timeout = timeout
        self.body = bytearray()  # pieces apart would take many times their bytes if they are small
        self.moved_at = monotonic()  # when it had last grown by SMALL_BODY
        self.gives_way = False

    def add(self, piece: bytes) -> None:
        before = len(self.body)
        self.body += piece
        if before // SMALL_BODY != len(self.body) // SMALL_BODY:
            self.moved_at = monotonic()


class Bodies:
    """Reads bodies: each within the limits and a time, all large ones together within a budget.

    Where the budget is spent, a body that has all but stopped coming gives way to the others.
    """

    def __init__(self, limits: Limits, *, seconds: float, budget: int, patience: float) -> None:
        """`patience`: seconds that a body may stand still while others have no room."""
        self._limits = limits
        self._seconds = seconds
        self._budget = budget
        self._patience = patience
        self._arriving: dict[int, _Arrival] = {}
        self.held = 0  # bytes of the large bodies in hand now

    async def read(self, request: Request, most: int | None = None) -> bytes:
        """The whole body as sent; at most `most` bytes, or what the limits allow.

        Raises `ClientGone`; `RequestError` 400 for a length that isn't one, 408 when it takes too
        long, 413 past the limit, 503 when all bodies together are past the budget.
        """
        if most is None:
            most = self._limits.max_body_bytes
        declared = request.headers.get(b"content-length")
        if declared is not None:
            if not declared.isdigit() or len(declared) > 18:
                length = quoted(declared.decode("latin-1"))
                raise BodyRefused(400, f"Content-Length is {length}, not a length")
            _check(int(declared), most)
        arrival = None
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientGone
                body: bytes = message.get("body", b"")
                _check(len(body), most)
                if message.get("more_body"):
                    arrival = _Arrival(request, timeout)
                    body = await self._rest(arrival, body, most)
                else:
                    self._hold(request, len(body))
        except TimeoutError:
            said = f"the body took more than {self._seconds:g} s"
            if arrival is not None and arrival.gives_way:
                said = "the body stood still while others waited for the room that it took"
            raise BodyRefused(408, said) from None
        return body

    def release(self, request: Request) -> None:
        """Give back what the request's body took from the budget."""
        self.held -= request.held
        request.held = 0

    async def _rest(self, arrival: _Arrival, piece: bytes, most: int) -> bytes:
        request = arrival.request
        self._arriving[id(arrival)] = arrival
        try:
            while True:
                arrival.add(piece)
                self._hold(request, len(arrival.body))
                message = await request.receive()
                if message["type"] != "http.request":
                    raise ClientGone
                if arrival.gives_way:
                    raise TimeoutError
                piece = message.get("body", b"")
                _check(len(arrival.body) + len(piece), most)
                if not message.get("more_body"):
                    arrival.add(piece)
                    self._hold(request, len(arrival.body))
                    return bytes(arrival.body)
        finally:
            del self._arriving[id(arrival)]

    def _hold(self, request: Request, size: int) -> None:
        """Take what has come from the budget; what is only announced costs a client nothing."""
        more = size - request.held
        if size <= SMALL_BODY or more <= 0:
            return
        while self.held + more > self._budget:
            if not self._make_room(request):
                raise BodyRefused(503, "too many large bodies at once; try again in a moment")
        self.held += more
        request.held = size

    def _make_room(self, request: Request) -> bool:
        """Have the body give way that has stood still the longest, where one has for long."""
        others = (each for each in self._arriving.values() if each.request is not request)
        holding = (each for each in others if each.request.held)
        still = min(holding, key=lambda each: each.moved_at, default=None)
        if still is None or monotonic() - still.moved_at < self._patience:
            return False
        still.gives_way = True
        still.body = bytearray()
        self.release(still.request)
        if not still.timeout.expired():
            still.timeout.reschedule(0)
        return True


def _check(size: int, most: int) -> None:
    if size > most:
        raise BodyRefused(413, f"the body is {quantity(size)} bytes, more than the {most} allowed")
