"""Requests go past Ray's bookkeeping in a replica, and nowhere else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from distributed_fmlp.serving import shortcut


class App:
    """An ASGI application that only notes which paths it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

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
