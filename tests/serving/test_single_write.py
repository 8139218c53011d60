"""An answer's head and body leave in one write, and every other kind of answer as before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from distributed_fmlp.serving.single_write import join_head_and_body


class Wire(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...


@pytest.fixture(autouse=True)
def joined() -> Iterator[None]:
    send = RequestResponseCycle.send
    join_head_and_body()
    join_head_and_body()
    yield
    httptools_impl.RequestResponseCycle.send = send  # type: ignore[method-assign]


def answered(request: bytes, *messages: dict[str, Any]) -> Wire:
    """What uvicorn writes for a request when the application sends these messages."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def exchange() -> Wire:
        wire = Wire()
        config = Config(application, log_config=None, lifespan="off")
        config.load()
        protocol = HttpToolsProtocol(config, ServerState(), {})
        protocol.connection_made(wire)
        protocol.data_received(request)
        for _ in range(10):
            await asyncio.sleep(0)
        closed = wire.closed
        protocol.connection_lost(None)
        wire.closed = closed  # uvicorn closes it now in any case
        return wire

    return asyncio.run(exchange())


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


LENGTH = (b"content-length", b"5")
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


def test_head_and_body_are_one_write() -> None:
    wire = answered(GET, start(200, LENGTH), body(b"hello"))
    assert len(wire.writes) == 1
    assert wire.writes[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.writes[0].endswith(b"content-length: 5\r\n\r\nhello")
    assert not wire.closed


def test_two_requests_on_one_connection_are_each_answered_whole() -> None:
    wire = answered(GET + GET, start(200, LENGTH), body(b"hello"))
    assert [write.count(b"HTTP/1.1 200") for write in wire.writes] == [1, 1]
    assert all(write.endswith(b"\r\n\r\nhello") for write in wire.writes)


def test_an_answer_to_head_is_its_head() -> None:
    wire = answered(GET.replace(b"GET", b"HEAD"), start(200, LENGTH), body(b""))
    assert b"".join(wire.writes).endswith(b"content-length: 5\r\n\r\n")


def test_an_answer_without_a_body_is_written() -> None:
    wire = answered(GET, start(304), body(b""))
    assert wire.writes[0].startswith(b"HTTP/1.1 304 Not Modified\r\n")


def test_a_body_in_parts_is_written_part_by_part() -> None:
    wire = answered(GET, start(200), body(b"one", more=True), body(b"two", more=True), body(b""))
    assert len(wire.writes) == 3
    text = b"".join(wire.writes)
    assert text.endswith(b"transfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_a_connection_that_is_to_close_closes_after_the_answer() -> None:
    request = GET.replace(b"host", b"connection: close\r\nhost")
    wire = answered(request, start(200, LENGTH), body(b"hello"))
    assert wire.writes[0].endswith(b"hello")
    assert wire.closed
