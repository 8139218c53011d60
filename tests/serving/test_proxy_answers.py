"""What Ray's own proxy says leaves as this service's errors, and tells nothing of Ray."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from distributed_fmlp.serving.proxy_answers import ProxyAnswers, middlewares

TRACEBACK = b'Traceback (most recent call last):\n  File "/somewhere/replica.py", line 1'


def asked(path: str, status: int, headers: dict[bytes, bytes], *parts: bytes) -> Any:
    """The status, headers and body that a client gets when Ray's proxy would give these."""

    async def rays(scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": status, "headers": [*headers.items()]}
        await send(start)
        for place, part in enumerate(parts):
            more = place + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(ProxyAnswers(rays)({"type": "http", "path": path}, None, send))  # type: ignore[arg-type]
    body = b"".join(message["body"] for message in sent[1:])
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert not sent[-1].get("more_body")
    return sent[0]["status"], dict(sent[0]["headers"]), body


@pytest.mark.parametrize("status", [400, 404, 408, 429, 499, 500, 502, 503, 504, 599])
def test_plain_text_becomes_an_error_of_the_same_status(status: int) -> None:
    plain = {b"Content-Type": b"text/plain; charset=utf-8", b"content-length": b"999"}
    given, headers, body = asked("/predict", status, plain, TRACEBACK, b"more")
    assert given == status
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == str(len(body)).encode()
    assert set(json.loads(body)) == {"error"}
    assert b"Traceback" not in body and b"/somewhere" not in body


def test_a_refusal_says_when_to_try_again() -> None:
    plain = {b"content-type": b"text/plain"}
    assert asked("/", 503, plain, b"x")[1][b"retry-after"] == b"1"
    assert asked("/", 503, {**plain, b"retry-after": b"7"}, b"x")[1][b"retry-after"] == b"7"


def test_the_services_own_answers_pass_untouched() -> None:
    own = {b"content-type": b"application/json", b"x-own": b"1"}
    assert asked("/predict", 400, own, b'{"error":', b'"x"}') == (400, own, b'{"error":"x"}')
    page = {b"content-type": b"text/html"}
    assert asked("/", 200, page, b"<html>") == (200, page, b"<html>")
    assert asked("/", 401, page, b"<html>") == (401, page, b"<html>")  # it asks for the token


def test_rays_routes_are_not_told() -> None:
    for path in ("/-/routes", "/-/ROUTES"):
        status, _, body = asked(path, 200, {b"content-type": b"application/json"}, b"{}")
        assert status == 404 and set(json.loads(body)) == {"error"}


def test_ray_is_given_the_middleware_by_name() -> None:
    assert [each.cls for each in middlewares()] == [ProxyAnswers]
