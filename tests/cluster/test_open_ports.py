"""Which ports on the network the doctor lets pass, and which it doesn't."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from distributed_fmlp.doctor.cluster_nodes import ExaminedNode
from distributed_fmlp.doctor.node_facts import lets_anyone_in
from distributed_fmlp.doctor.open_ports import check_open_ports

DASHBOARD, CLIENT, HAPROXY, SERVICE, GCS = 8265, 10001, 9101, 8000, 6379
METRICS, AUTOSCALER_METRICS, DASHBOARD_METRICS = 51234, 44217, 44227


def node_with(ports: list[int] | None) -> ExaminedNode:
    facts = {"open_ports": ports}
    return ExaminedNode("id", "10.0.0.2", True, 1.0, 0.0, [], metrics_port=METRICS, facts=facts)


@pytest.mark.parametrize(
    ("ports", "token", "service_lets_in", "verdicts"),
    [
        ([GCS], True, None, ["ok"]),
        ([DASHBOARD, CLIENT, GCS], True, None, ["note", "note", "ok"]),
        ([DASHBOARD], False, None, ["FAILED"]),
        ([CLIENT], False, None, ["FAILED"]),
        ([HAPROXY], True, None, ["FAILED"]),
        ([METRICS], True, None, ["note", "ok"]),
        ([AUTOSCALER_METRICS, DASHBOARD_METRICS, METRICS], True, None, ["note", "ok"]),
        ([METRICS], False, None, ["note", "ok"]),
        ([METRICS, HAPROXY], True, None, ["FAILED", "note"]),
        (None, True, None, ["note"]),
        ([SERVICE], True, True, ["FAILED"]),
        ([SERVICE], False, False, ["note", "ok"]),
        ([SERVICE], True, None, ["note", "ok"]),
    ],
)
def test_a_port_fails_where_it_asks_for_no_token(
    ports: list[int] | None, token: bool, service_lets_in: bool | None, verdicts: list[str]
) -> None:
    node = node_with(ports)
    found = check_open_ports([node], {"id": service_lets_in}, protected=token)
    assert [finding.verdict for finding in found] == verdicts
    assert all(finding.advice for finding in found if finding.verdict != "ok")


def test_metrics_that_ray_shows_to_everyone_are_told_of_in_one_line_a_node() -> None:
    ports = [AUTOSCALER_METRICS, DASHBOARD_METRICS, METRICS]
    told, _ = check_open_ports([node_with(ports)], {}, protected=True)
    assert "Ray's metrics, for whoever reaches it (ports 44217, 44227, 51234)" in told.told
    assert "firewall" in told.advice


@pytest.mark.parametrize(
    ("ports", "lets_in", "judged"),
    [
        ([GCS], None, "none of Ray's control ports or the service's lets in who shows no token"),
        ([SERVICE], False, "none of Ray's control ports or the service's lets in who shows"),
        ([SERVICE], None, "none of Ray's control ports lets in who shows no token"),
    ],
)
def test_no_more_is_called_well_than_was_looked_at(
    ports: list[int], lets_in: bool | None, judged: str
) -> None:
    *_, last = check_open_ports([node_with(ports)], {"id": lets_in}, protected=True)
    assert last.verdict == "ok"
    assert last.told.startswith(judged)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that answers every GET with `status`; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "expected"), [(200, True), (404, True), (401, False), (403, False), (503, None)]
)
def test_a_service_is_asked_without_a_token(status: int, expected: bool | None) -> None:
    with answering(status) as port:
        assert lets_anyone_in(port) is expected


def test_a_port_where_nothing_answers_lets_nobody_in() -> None:
    with answering(200) as port:
        pass
    assert lets_anyone_in(port) is None
