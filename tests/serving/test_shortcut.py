"""Requests go past Ray's bookkeeping in a replica, and nowhere else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from distributed_fmlp.serving import shortcut
from distributed_fmlp.serving.proxy_answers import ProxyAnswers


class App:
    """An ASGI application that only notes which paths it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_ready = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])


@pytest.fixture(autouse=True)
def no_service() -> Iterator[None]:
    yield
    shortcut.offer(None)


def ask(app: Any, path: str, kind: str = "http") -> None:
    asyncio.run(app({"type": kind, "path": path}, None, None))


def test_where_there_is_no_replica_ray_is_asked() -> None:
    rays = App()
    ask(shortcut.Shortcut(rays), "/predict")
    assert rays.asked == ["/predict"]


def test_a_replica_is_asked_directly_but_for_rays_own_health_checks_and_websockets() -> None:
    rays, service = App(), App()
    (middleware,) = shortcut.middlewares()
    app = middleware.cls(rays)
    shortcut.offer(service)
    for path in ("/", "/predict", "/v2/health/ready", "/-/healthz"):
        ask(app, path)
    ask(app, "/predict", "websocket")
    assert service.asked == ["/", "/predict", "/v2/health/ready"]
    assert rays.asked == ["/-/healthz", "/predict"]


@pytest.mark.parametrize("path", ["/-/routes", "/-/Routes"])
@pytest.mark.parametrize("is_replica", [True, False])
def test_nobody_is_told_which_applications_ray_has(path: str, is_replica: bool) -> None:
    rays, service, sent = App(), App(), []

    async def send(message: Any) -> None:
        sent.append(message)

    if is_replica:
        shortcut.offer(service)
    scope = {"type": "http", "path": path}
    asyncio.run(shortcut.Shortcut(rays)(scope, None, send))  # type: ignore[arg-type]
    assert (rays.asked, service.asked) == ([], [])
    assert sent[0]["status"] == 404
    assert set(json.loads(b"".join(each.get("body", b"") for each in sent[1:]))) == {"error"}


@pytest.mark.parametrize("middleware", [shortcut.Shortcut, ProxyAnswers])
@pytest.mark.parametrize(
    ("is_ready", "says", "told"), [(True, 200, 200), (True, 503, 404), (False, 200, 404)]
)
def test_haproxy_is_told_404_by_a_replica_that_drains_or_may_not_answer(
    middleware: Any, is_ready: bool, says: int, told: int
) -> None:
    sent: list[Any] = []

    async def rays(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": says, "headers": []})
        await send({"type": "http.response.body", "body": b"a word"})

    async def send(message: Any) -> None:
        sent.append(message)

    service = App()
    service.is_ready = is_ready
    shortcut.offer(service)
    asyncio.run(middleware(rays)({"type": "http", "path": "/-/healthz"}, None, send))
    assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == told
    assert (sent[1]["body"] == b"a word") == (told == 200)
    assert service.asked == []


def test_a_proxy_that_is_no_replica_says_of_itself_what_ray_says() -> None:
    rays = App()
    ask(ProxyAnswers(rays), "/-/healthz")
    ask(shortcut.Shortcut(rays), "/-/healthz")
    assert rays.asked == 2 * ["/-/healthz"]
