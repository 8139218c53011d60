"""What clients are told by HAProxy, as it is configured here, when a replica is lost or drains."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from distributed_fmlp.serving import haproxy
from tests.serving.test_haproxy import written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not haproxy.available(), reason="there is no HAProxy here"),
]

SMALL, LARGE = bytes(784), bytes(300 * 784)
# As Ray writes it, as far as it matters here, with the settings of `configure_environment`.
CONFIGURATION = """global
    maxconn 4096
    nbthread 2
    tune.bufsize 16384
defaults
    mode http
    timeout connect 1s
    timeout client 3600s
    timeout http-keep-alive 5s
    option abortonclose
    option splice-request
    option splice-response
    option redispatch 1
    retry-on {retry_on}
    option http-no-delay
    option idle-close-on-response
    balance leastconn
frontend http_frontend
    bind 127.0.0.1:{port}
    acl healthcheck path -i /-/healthz
    acl is_http-fmlp path_beg /
    acl is_http-fmlp path /
    use_backend http-fmlp if is_http-fmlp
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain string "not found"
backend http-fmlp
    http-reuse always
    option httpchk GET /-/healthz
    http-check expect status 200
    default-server fastinter 250ms downinter 250ms fall 2 rise 2 inter {inter}
    server one 127.0.0.1:{one} check observe layer4 error-limit 3 on-error mark-down
    server two 127.0.0.1:{two} check observe layer4 error-limit 3 on-error mark-down
"""


@dataclass
class StandIn:
    """A replica that answers as its fields say."""

    name: str
    health: int | None = 200  # None: says nothing, as a process that hangs
    answers: threading.Event = field(default_factory=threading.Event)
    got: list[str] = field(default_factory=list)
    dies: bool = False  # closes the connection in the place of an answer

    def __post_init__(self) -> None:
        stand_in = self
        self.answers.set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one piece

            def do_GET(self) -> None:
                until = time.monotonic() + 10
                while stand_in.health is None and time.monotonic() < until:
                    time.sleep(0.02)
                self._say(stand_in.health or 500)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                stand_in.got.append(self.path)
                stand_in.answers.wait(20)
                if stand_in.dies:
                    self.close_connection = True
                else:
                    self._say(200)

            def _say(self, status: int) -> None:
                body = json.dumps({"by": stand_in.name}).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@dataclass
class Said:
    status: int  # 0: the connection was closed without a word
    by: str | None
    retry_after: str | None
    seconds: float


class Client:
    """One connection, which has had an answer already: HAProxy treats the first one differently."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        assert self.post(SMALL).status == 200

    def post(self, body: bytes, path: str = "/predict") -> Said:
        began = time.monotonic()
        try:
            self._connection.request("POST", path, body)
            answer = self._connection.getresponse()
            content = json.loads(answer.read())
        except http.client.RemoteDisconnected:
            return Said(0, None, None, time.monotonic() - began)
        after = answer.headers["Retry-After"]
        return Said(answer.status, content.get("by"), after, time.monotonic() - began)


@dataclass
class Proxied:
    port: int
    one: StandIn
    two: StandIn

    def wait_until_asked(self, client: Client, name: str) -> None:
        """Until HAProxy sends all that it gets to one of them."""
        until = time.monotonic() + 10
        in_a_row = 0
        while in_a_row < 20:
            assert time.monotonic() < until
            in_a_row = in_a_row + 1 if client.post(SMALL).by == name else 0
            time.sleep(0.02)


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    settings: dict[str, str] = {}
    haproxy.configure_environment(tmp_path, 8000, settings)
    one, two = StandIn("one"), StandIn("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = CONFIGURATION.format(
        port=port,
        one=one.port,
        two=two.port,
        retry_on=settings["RAY_SERVE_HAPROXY_RETRY_ON"],
        inter=settings["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"],
    )
    path = written(tmp_path, haproxy.mended(configuration, str(tmp_path)))
    process = subprocess.Popen([haproxy._binary(), "-db", "-f", str(path)])
    try:
        until = time.monotonic() + 10
        while True:
            assert process.poll() is None and time.monotonic() < until
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield Proxied(port, one, two)
    finally:
        process.terminate()
        process.wait(10)
        for each in (one, two):
            each.health = each.health or 200
            each.answers.set()
            each.server.shutdown()


def told_when_it_dies(proxied: Proxied, body: bytes, path: str = "/predict") -> list[Said]:
    """What four clients are told whose requests are at a replica when that dies."""
    clients = [Client(proxied.port) for _ in range(4)]
    proxied.two.health = 404
    proxied.wait_until_asked(clients[0], "one")
    proxied.one.answers.clear()
    proxied.one.got.clear()
    with ThreadPoolExecutor(len(clients)) as threads:
        waiting = [threads.submit(client.post, body, path) for client in clients]
        until = time.monotonic() + 10
        while len(proxied.one.got) < len(clients):
            assert time.monotonic() < until
            time.sleep(0.01)
        proxied.two.health = 200
        time.sleep(1.5)  # until HAProxy knows
        proxied.one.dies = True
        proxied.one.answers.set()
        return [each.result() for each in waiting]


def test_what_a_dead_replica_had_is_answered_by_another(proxied: Proxied) -> None:
    told = told_when_it_dies(proxied, SMALL)
    assert {(each.status, each.by) for each in told} == {(200, "two")}


def test_what_is_too_large_to_be_kept_is_answered_503_and_can_be_sent_again(
    proxied: Proxied,
) -> None:
    told = told_when_it_dies(proxied, LARGE)
    assert {(each.status, each.retry_after) for each in told} == {(503, "1")}
    proxied.one.dies = False
    assert Client(proxied.port).post(LARGE).status == 200


def test_of_a_promotion_nobody_says_that_it_can_be_sent_again(proxied: Proxied) -> None:
    told = told_when_it_dies(proxied, SMALL, "/admin/promote")
    assert {(each.status, each.retry_after) for each in told} == {(502, None)}
    assert "/admin/promote" not in proxied.two.got


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])
def test_a_replica_that_hangs_is_asked_nothing_new_and_may_go_on(
    proxied: Proxied, body: bytes
) -> None:
    client = Client(proxied.port)
    proxied.two.health = 404
    proxied.wait_until_asked(client, "one")
    proxied.one.answers.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, body)
        proxied.two.health = 200
        time.sleep(1.5)
        proxied.one.health = None
        time.sleep(4)
        proxied.wait_until_asked(Client(proxied.port), "two")
        proxied.one.answers.set()
        assert (waiting.result().status, waiting.result().by) == (200, "one")


def test_a_replica_that_takes_no_more_ends_what_it_has(proxied: Proxied) -> None:
    clients = [Client(proxied.port) for _ in range(2)]
    proxied.two.health = 404
    proxied.wait_until_asked(clients[0], "one")
    proxied.one.answers.clear()
    with ThreadPoolExecutor(2) as threads:
        waiting = [
            threads.submit(clients[0].post, SMALL),
            threads.submit(clients[1].post, LARGE),
        ]
        proxied.two.health = 200
        time.sleep(1.5)
        proxied.one.health = 404
        time.sleep(3)
        got = len(proxied.one.got)
        proxied.wait_until_asked(Client(proxied.port), "two")
        proxied.one.answers.set()
        assert [(each.result().status, each.result().by) for each in waiting] == 2 * [(200, "one")]
        assert len(proxied.one.got) == got


def test_a_replica_that_comes_back_is_asked_nothing_before_it_says_200(proxied: Proxied) -> None:
    client = Client(proxied.port)
    proxied.one.health = None
    proxied.wait_until_asked(client, "two")
    time.sleep(3)
    proxied.one.health = 404
    proxied.one.got.clear()
    for _ in range(100):
        assert client.post(SMALL).by == "two"
        time.sleep(0.02)
    assert proxied.one.got == []
    proxied.one.health = 200
    until = time.monotonic() + 5
    while client.post(SMALL).by != "one":
        assert time.monotonic() < until
