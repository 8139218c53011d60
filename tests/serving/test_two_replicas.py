"""Two replicas with the token in the environment: each asks for it, and none answers when stale."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest

from distributed_fmlp.serving.lease import LEASE_SECONDS, SILENCE_SECONDS
from tests.serving.conftest import Bundles
from tests.serving.running_service import (
    OCTETS,
    Connection,
    Load,
    Reply,
    Service,
    listening_addresses,
    running_service,
)
from tests.serving.token_checks import TOKEN, check_token, check_token_is_told_nowhere

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
IMAGES = np.random.default_rng(8).integers(0, 256, (16, 784), dtype=np.uint8)
CONNECTIONS = 6
WAITING = 8  # requests sent to the replica while it is stopped


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, bundles: Bundles) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("service")
    words = (str(bundles.first), "--replicas", "2")
    with running_service(directory, *words, token=TOKEN, FMLP_API_TOKEN=TOKEN) as running:
        yield running


def replica_processes(service: Service) -> list[psutil.Process]:
    found = [
        each
        for each in service.command.family()
        if "ServeReplica:fmlp:fmlp" in " ".join(each.cmdline())
    ]
    assert len(found) == 2
    return found


def http_port(replica: psutil.Process) -> int:
    """The port at which a replica's own HTTP server answers; its other one speaks gRPC."""
    for _, port in listening_addresses([replica]):
        try:
            with Connection(port, timeout=5) as connection:  # health asks for no token
                if connection.ask("GET", "/v2/health/live").status == 200:
                    return port
        except Exception:
            continue
    raise AssertionError("the replica listens nowhere for HTTP")


def admin(service: Service, method: str, path: str, body: str | None, until: float) -> Reply:
    """Asked again while the answer is 503, or the stopped replica was to give it."""
    while True:
        try:
            with service.connect(timeout=15) as connection:
                headers = {"Content-Type": "application/json"}
                reply = connection.ask(method, path, body, headers)
                if reply.status != 503:
                    return reply
                said = reply.body.decode()
        except OSError as error:
            said = repr(error)
        assert time.monotonic() < until, said
        time.sleep(0.2)


def test_a_token_in_the_environment_reaches_every_replica_and_is_told_nowhere(
    service: Service,
) -> None:
    check_token(service)
    check_token_is_told_nowhere(service)
    for replica in replica_processes(service):
        port = http_port(replica)
        with Connection(port) as connection:
            assert connection.predict(IMAGES[:1]).status == 401
        with Connection(port, TOKEN) as connection:
            assert connection.predict(IMAGES[:1]).status == 200


def test_a_replica_stopped_during_a_promotion_answers_nothing_with_the_old_model(
    service: Service, bundles: Bundles, tell: Callable[[str], None]
) -> None:
    first, second = map(bundles.version, (bundles.first, bundles.second))
    load = Load(bundles.probabilities(IMAGES), IMAGES, token=TOKEN)
    victim = replica_processes(service)[0]
    port = http_port(victim)
    with Connection(port, TOKEN) as connection:
        assert connection.predict(IMAGES[:1]).version == first
    order = f'{{"bundle": "{bundles.second}", "allowed_accuracy_drop": 1}}'
    until = time.monotonic() + 60
    waiting = [Connection(port, TOKEN) for _ in range(WAITING)]
    with load.on(service.port, connections=CONNECTIONS, may_refuse=True):
        time.sleep(0.5)
        victim.send_signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            time.sleep(SILENCE_SECONDS + 0.5)
            promoted = admin(service, "POST", "/admin/promote", order, until)
            committed = time.monotonic()
            assert promoted.status == 200, promoted.body
            # They lie in its sockets: it reads them before it hears of the promotion.
            for place, connection in enumerate(waiting):
                connection.send("POST", "/predict", IMAGES[place].tobytes(), OCTETS)
            time.sleep(0.3)
        finally:
            victim.send_signal(signal.SIGCONT)
        out_of_touch = time.monotonic() - stopped
        replies = [connection.receive() for connection in waiting]
        while True:
            with Connection(port, TOKEN) as connection:
                first_answer = connection.predict(IMAGES[:1])
            if first_answer.status == 200:
                break
            assert first_answer.status == 503 and time.monotonic() < until
            time.sleep(0.01)
        back = time.monotonic() - stopped - out_of_touch
        time.sleep(0.5)
    status = admin(service, "GET", "/admin/status", None, until).json
    assert out_of_touch > LEASE_SECONDS
    answered = [reply.status for reply in replies]
    late = [version for began, version in load.begun if began > committed and version == first]
    tell(
        f"a replica stopped for {out_of_touch:.1f} s, over a promotion; {len(late)} requests sent "
        f"after that were answered by the old model, of {len(load.begun)}; {WAITING} sent to it "
        f"while it was stopped: {answered.count(503)} refused; back {1000 * back:.0f} ms after it "
        f"went on: {load.figures()}",
    )
    for reply in replies:
        if reply.status == 200:
            assert reply.version == second
        else:
            assert (reply.status, list(reply.json)) == (503, ["error"])
            assert reply.headers["Retry-After"]
    assert first_answer.version == second
    assert late == [] and load.mixed == []
    assert load.failed == []
    assert {each["version"] for each in status["replicas"]} == {second}
    assert set(load.answers) == {first, second}
