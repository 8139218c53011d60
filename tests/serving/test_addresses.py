"""The service at addresses other than 127.0.0.1: it answers there, and nothing reaches further."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from distributed_fmlp.serving import haproxy
from tests.serving.conftest import Bundles
from tests.serving.running_service import (
    Connection,
    Service,
    listening_addresses,
    outward_address,
    running_service,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
IMAGES = np.random.default_rng(9).integers(0, 256, (4, 784), dtype=np.uint8)
TOKEN = "correct-horse-battery-staple-0123"


def haproxies(service: Service) -> list[psutil.Process]:
    found = []
    for each in service.command.family():
        with contextlib.suppress(
            psutil.NoSuchProcess
        ):  # replaced by one with a newer configuration
            if "haproxy" in each.name().lower():
                found.append(each)
    return found


def reachable_ports(service: Service) -> set[int]:
    """Those of all its processes that listen on more than loopback."""
    return {
        port
        for host, port in listening_addresses(service.command.family())
        if host.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
    }


def check_predictions(service: Service, host: str, token: str | None, version: str) -> None:
    with Connection(service.port, token, host=host) as connection:
        reply = connection.predict(IMAGES)
        assert (reply.status, reply.version) == (200, version), reply.body
        assert len(reply.json["predictions"]) == len(IMAGES)


@pytest.mark.skipif(not Path("/proc/net").exists(), reason="only Linux has all of 127.0.0.0/8")
def test_another_loopback_address_answers_and_the_first_one_does_not(
    tmp_path: Path, bundles: Bundles
) -> None:
    with running_service(tmp_path, str(bundles.first), "--host", "127.0.0.2") as service:
        assert f"http://127.0.0.2:{service.port}" in service.command.said
        assert bool(haproxies(service)) == haproxy.available()
        check_predictions(service, "127.0.0.2", None, bundles.version(bundles.first))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port), 5)


def test_the_outward_address_answers_who_shows_the_token_and_nobody_else_at_any_port(
    tmp_path: Path, bundles: Bundles
) -> None:
    address = outward_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    words = (str(bundles.first), "--host", address)
    with running_service(tmp_path, *words, token=TOKEN, FMLP_API_TOKEN=TOKEN) as service:
        check_predictions(service, address, TOKEN, bundles.version(bundles.first))
        # HAProxy's frontend, the replica's own server, the proxy that stands in for replicas and
        # that Ray may start after the others.
        expected = 3 if haproxy.available() else 1
        until = time.monotonic() + 20
        while len(reachable := reachable_ports(service)) < expected and time.monotonic() < until:
            time.sleep(0.2)
        assert len(reachable) == expected
        for port in reachable:
            with Connection(port, host=address) as connection:
                for path, status in (("/model", 401), ("/metrics", 401), ("/-/routes", 404)):
                    reply = connection.ask("GET", path)
                    assert (reply.status, set(reply.json)) == (status, {"error"}), (port, path)
                assert connection.predict(IMAGES).status == 401
        status_ports = listening_addresses(haproxies(service)) - {(address, service.port)}
        assert {host.removeprefix("::ffff:") for host, _ in status_ports} <= {"127.0.0.1"}


def test_every_ipv6_address_is_rays_own_proxys_and_ipv4_ones_answer_too(
    tmp_path: Path, bundles: Bundles
) -> None:
    try:
        socket.create_server(("::", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    words = (str(bundles.first), "--host", "::", "--insecure")
    with running_service(tmp_path, *words) as service:
        assert haproxies(service) == []
        for host in ("::1", "127.0.0.1"):
            check_predictions(service, host, None, bundles.version(bundles.first))
