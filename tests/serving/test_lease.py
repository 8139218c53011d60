"""Until when a replica may answer: never past a change that was made without it."""

from __future__ import annotations

import time

import pytest

from distributed_fmlp.serving.lease import LEASE_SECONDS, SILENCE_SECONDS, Lease, clock


class Time:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Time:
    return Time()


@pytest.fixture
def lease(now: Time) -> Lease:
    return Lease(4.0, now)


def test_it_does_not_hold_before_the_first_orders(lease: Lease, now: Time) -> None:
    assert not lease.holds
    lease.extend(now())
    assert not lease.holds
    lease.renew(now())
    assert lease.holds


def test_it_lasts_from_when_orders_were_asked_for_not_from_when_they_came(
    lease: Lease, now: Time
) -> None:
    asked_at = now()
    now.seconds += 3
    lease.renew(asked_at)
    now.seconds += 0.9
    assert lease.holds and lease.runs_low
    now.seconds += 0.2
    assert not lease.holds


def test_orders_that_lay_unread_while_the_process_was_stopped_bring_nothing_back(
    lease: Lease, now: Time
) -> None:
    asked_at = now()
    now.seconds += 60
    lease.renew(asked_at)
    assert not lease.holds


def test_older_orders_do_not_shorten_it(lease: Lease, now: Time) -> None:
    lease.renew(now())
    lease.renew(now() - 3)
    now.seconds += 3.9
    assert lease.holds


def test_that_there_is_no_coordinator_keeps_it_but_never_brings_it_back(
    lease: Lease, now: Time
) -> None:
    lease.renew(now())
    for _ in range(5):
        now.seconds += 3
        assert lease.runs_low
        lease.extend(now())
        assert lease.holds and not lease.runs_low
    now.seconds += 5
    lease.extend(now())
    assert not lease.holds


def test_a_replica_stops_answering_before_it_is_left_out() -> None:
    assert SILENCE_SECONDS - LEASE_SECONDS >= 1


def test_the_clock_goes_on() -> None:
    began = clock()
    time.sleep(0.01)
    assert 0.01 <= clock() - began < 5


def test_it_is_unbroken_only_since_it_last_came_back(lease: Lease, now: Time) -> None:
    lease.renew(now())
    began = now()
    now.seconds += 3.0
    lease.renew(now())
    now.seconds += 3.0
    assert lease.unbroken_since(began) and lease.unbroken_since(now())
    now.seconds += 2.0
    assert not lease.unbroken_since(began)  # it has lapsed
    lease.renew(now())
    assert lease.holds and not lease.unbroken_since(began)
    assert lease.unbroken_since(now())
