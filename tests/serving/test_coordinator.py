"""Promotion in two phases: on every replica, or on none. The replicas are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from distributed_fmlp.serving.coordinator import (
    Coordinator,
    Orders,
    Outcome,
    Patience,
    Pinned,
    Report,
    status_of,
)

A, B, C = (Pinned(f"/bundles/{name}", name * 64) for name in "abc")
QUICK = Patience(news=0.05, silence=0.4, prepare=1.0, follow=0.5, settle=0.3)


def coordinator(deployed: Pinned = A, **changes: Any) -> Coordinator:
    return Coordinator(Orders(0, deployed, deployed), QUICK, **changes)


async def promote(leader: Coordinator, candidate: Pinned) -> Outcome:
    """A promotion by someone who has compared the candidate with what is served."""
    return await leader.promote(candidate, leader.orders.current.sha256, await leader.turn())


async def rollback(leader: Coordinator) -> Outcome:
    return await leader.rollback(await leader.turn())


@dataclass
class StandIn:
    """A replica that does as it is told, unless its fields say otherwise."""

    name: str
    orders: Orders = field(default_factory=lambda: Orders(0, A, A))
    refuses: dict[Pinned, str] = field(default_factory=dict)
    seconds_to_prepare: float = 0.0
    deaf: bool = False  # lives on and reports, but carries nothing out
    served: list[Pinned] = field(default_factory=list)  # one after the other
    prepared_id: str | None = None
    refusal: str | None = None

    def report(self) -> Report:
        return Report(
            self.name, "node", self.orders, self.orders.current.sha256[:12],
            self.prepared_id, self.refusal,
        )  # fmt: skip

    async def live(self, leader: Callable[[], Coordinator]) -> None:
        self.served.append(self.orders.current)
        while True:
            await asyncio.sleep(0.001)  # as any call over a network takes
            orders = await leader().report(self.report())
            if self.deaf:
                await asyncio.sleep(0.02)
                continue
            if orders.generation > self.orders.generation:
                self.served.append(orders.current)
            self.orders = orders
            if orders.candidate and orders.candidate_id != self.prepared_id:
                await asyncio.sleep(self.seconds_to_prepare)
                self.refusal = self.refuses.get(orders.candidate)
                self.prepared_id = orders.candidate_id


@contextlib.asynccontextmanager
async def living(
    leader: Coordinator | Callable[[], Coordinator], *replicas: StandIn
) -> AsyncIterator[list[asyncio.Task[None]]]:
    leads = leader if callable(leader) else lambda: leader
    tasks = [asyncio.create_task(replica.live(leads)) for replica in replicas]
    await asyncio.sleep(0.02)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def replicas(count: int) -> list[StandIn]:
    return [StandIn(f"r{number}") for number in range(count)]


async def settled() -> None:
    await asyncio.sleep(3 * QUICK.news)


# --- everywhere


@pytest.mark.parametrize("count", [1, 3])
def test_a_promotion_ends_when_every_replica_serves_the_new_model(count: int) -> None:
    async def work() -> None:
        leader, all_of_them = coordinator(), replicas(count)
        async with living(leader, *all_of_them):
            outcome = await promote(leader, B)
            assert outcome == Outcome(None, 200)
            assert [each.orders.current for each in all_of_them] == [B] * count
            assert all(each.served == [A, B] for each in all_of_them)
            assert {each["version"] for each in status_of(await leader.replicas())} == {"b" * 12}

    run(work())


def test_rollbacks_go_back_through_all_promotions_and_no_further() -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r")
        async with living(leader, one):
            assert (await rollback(leader)).status == 409
            for bundle in (B, C):
                assert (await promote(leader, bundle)).status == 200
            for expected in (B, A):
                assert (await rollback(leader)).status == 200
                assert one.orders.current == expected
            assert (await rollback(leader)).status == 409
            assert one.served == [A, B, C, B, A]

    run(work())


def test_a_rollback_goes_back_to_another_model_whatever_was_promoted_twice() -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r")
        elsewhere = Pinned("/elsewhere", B.sha256)
        async with living(leader, one):
            for bundle in (B, B, elsewhere):
                assert (await promote(leader, bundle)).status == 200
            assert (one.orders.current, leader.orders.history) == (elsewhere, (A,))
            assert (await rollback(leader)).status == 200
            assert one.orders.current == A
            assert (await rollback(leader)).status == 409

    run(work())


def test_the_history_is_bounded() -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r")
        async with living(leader, one):
            for number in range(13):
                assert (await promote(leader, Pinned("x", str(number) * 64))).refusal is None
            assert len(leader.orders.history) == 10

    run(work())


def test_a_replica_that_starts_during_a_promotion_serves_what_the_others_serve() -> None:
    async def work() -> None:
        leader, old = coordinator(), StandIn("old", seconds_to_prepare=0.2)
        async with living(leader, old):
            promotion = asyncio.create_task(promote(leader, B))
            await asyncio.sleep(0.05)
            late = StandIn("late", orders=replace(await leader.current()))
            async with living(leader, late):
                assert (await promotion).status == 200
                await settled()
                assert (old.orders.current, late.orders.current) == (B, B)

    run(work())


# --- or nowhere


def test_one_refusal_undoes_the_promotion_before_any_replica_serves_it() -> None:
    async def work() -> None:
        leader, all_of_them = coordinator(), replicas(3)
        all_of_them[1].refuses = {B: "its SHA-256 is wrong"}
        async with living(leader, *all_of_them):
            assert await promote(leader, B) == Outcome("its SHA-256 is wrong", 422)
            await settled()
            assert all(each.served == [A] for each in all_of_them)
            assert leader.orders == Orders(0, A, A)
            assert (await promote(leader, C)).status == 200  # a refusal leaves nothing behind
            assert all(each.served == [A, C] for each in all_of_them)

    run(work())


def test_a_replica_that_falls_silent_undoes_the_promotion() -> None:
    async def work() -> None:
        leader, all_of_them = coordinator(), replicas(2)
        all_of_them[1].seconds_to_prepare = 60  # cut off: it reports no more
        async with living(leader, *all_of_them):
            outcome = await promote(leader, B)
            assert outcome.status == 503 and "1 of 2 replicas" in (outcome.refusal or "")
            await settled()
            assert all_of_them[0].served == [A]

    run(work())


def test_a_replica_that_does_not_follow_undoes_the_promotion_on_all_others() -> None:
    async def work() -> None:
        leader, all_of_them = coordinator(), replicas(3)
        async with living(leader, *all_of_them):
            promotion = asyncio.create_task(promote(leader, B))
            while all_of_them[2].prepared_id is None:
                await asyncio.sleep(0.001)
            all_of_them[2].deaf = True
            outcome = await promotion
            assert outcome.status == 503 and "not every replica" in (outcome.refusal or "")
            await settled()
            assert [each.orders.current for each in all_of_them] == [A, A, A]
            assert leader.orders.history == ()

    run(work())


@pytest.mark.parametrize("phase", ["prepare", "follow"])
def test_a_promotion_that_is_cancelled_is_undone(phase: str) -> None:
    async def work() -> None:
        leader, all_of_them = coordinator(), replicas(2)
        all_of_them[1].seconds_to_prepare = 0.2
        async with living(leader, *all_of_them):
            promotion = asyncio.create_task(promote(leader, B))
            await asyncio.sleep(0.05)
            if phase == "follow":
                while all_of_them[1].prepared_id is None:
                    await asyncio.sleep(0.001)
                all_of_them[1].deaf = True
                while all_of_them[0].orders.current != B:
                    await asyncio.sleep(0.001)
            promotion.cancel()
            with pytest.raises(asyncio.CancelledError):
                await promotion
            all_of_them[1].deaf = False
            await asyncio.sleep(0.2)
            await settled()
            assert [each.orders.current for each in all_of_them] == [A, A]
            assert (leader.orders.candidate, leader.orders.history) == (None, ())
            assert (await promote(leader, C)).status == 200

    run(work())


def test_a_replica_that_takes_too_long_to_prepare_undoes_the_promotion() -> None:
    class Slow(StandIn):
        def report(self) -> Report:
            return replace(super().report(), prepared_id=None)

    async def work() -> None:
        leader, slow = coordinator(), Slow("r")
        async with living(leader, slow):
            outcome = await promote(leader, B)
            assert outcome.status == 503 and slow.served == [A]

    run(work())


def test_a_replica_that_leaves_in_good_order_is_not_waited_for() -> None:
    async def work() -> None:
        leader, stays, leaves = coordinator(), StandIn("stays"), StandIn("leaves")
        leaves.seconds_to_prepare = 60
        async with living(leader, stays, leaves) as tasks:
            promotion = asyncio.create_task(promote(leader, B))
            await asyncio.sleep(0.1)
            tasks[1].cancel()
            await leader.leave("leaves")
            assert (await promotion).status == 200
            assert stays.served == [A, B]

    run(work())


def test_without_any_replica_nothing_is_promoted() -> None:
    async def work() -> None:
        leader = coordinator()
        assert (await promote(leader, B)).status == 503
        assert leader.orders.current == A

    run(work())


def test_of_two_promotions_at_once_one_is_refused_with_409() -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r", seconds_to_prepare=0.1)
        async with living(leader, one):
            outcomes = await asyncio.gather(
                promote(leader, B), promote(leader, C), rollback(leader)
            )
            assert [outcome.status for outcome in outcomes] == [200, 409, 409]
            assert one.served == [A, B]

    run(work())


def test_what_was_compared_with_a_model_no_longer_served_is_refused_with_409() -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r")
        async with living(leader, one):
            compared_with = leader.orders.current.sha256
            assert (await promote(leader, B)).status == 200
            outcome = await leader.promote(C, compared_with, await leader.turn())
            assert outcome.status == 409 and "promoted meanwhile" in (outcome.refusal or "")
            await settled()
            assert one.served == [A, B] and leader.orders.history == (A,)
            assert (await promote(leader, C)).status == 200

    run(work())


@pytest.mark.parametrize("refused", [False, True])
def test_whoever_asked_before_another_change_was_tried_has_lost_its_turn(refused: bool) -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r", refuses={B: "no"} if refused else {})
        async with living(leader, one):
            before = await leader.turn()
            assert (await promote(leader, B)).status == (422 if refused else 200)
            served = leader.orders.current
            for outcome in (
                await leader.promote(C, served.sha256, before),
                await leader.rollback(before),
            ):
                assert outcome.status == 409 and "tried meanwhile" in (outcome.refusal or "")
            await settled()
            assert one.served == ([A] if refused else [A, B])
            assert (await promote(leader, C)).status == 200

    run(work())


def test_a_turn_is_over_after_a_while() -> None:
    async def work() -> None:
        leader, one = Coordinator(Orders(0, A, A), replace(QUICK, turn=0.2)), StandIn("r")
        async with living(leader, one):
            turn = await leader.turn()
            await asyncio.sleep(0.25)
            for outcome in (
                await leader.promote(B, A.sha256, turn),
                await leader.rollback(turn),
            ):
                assert outcome.status == 503 and "not changed" in (outcome.refusal or "")
            await settled()
            assert one.served == [A]

    run(work())


def test_a_turn_that_another_coordinator_gave_counts_for_nothing() -> None:
    async def work() -> None:
        leader, one = coordinator(), StandIn("r")
        turn = await coordinator().turn()
        async with living(leader, one):
            assert (await leader.promote(B, A.sha256, turn)).status == 503
            await settled()
            assert one.served == [A]

    run(work())


def test_replicas_hear_of_news_at_once_and_otherwise_after_a_while() -> None:
    async def work() -> None:
        leader = Coordinator(Orders(0, A, A), replace(QUICK, news=5.0))
        one = StandIn("r")
        async with living(leader, one):
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert (await promote(leader, B)).status == 200
            assert loop.time() - began < 1.0

    run(work())


# --- after a restart


def test_a_restarted_coordinator_takes_over_what_its_replicas_serve() -> None:
    async def work() -> None:
        leaders = [coordinator()]
        all_of_them = replicas(2)
        async with living(lambda: leaders[-1], *all_of_them):
            assert (await promote(leaders[0], B)).status == 200
            leaders.append(coordinator(before=2))
            assert (await leaders[1].current()).current == B  # waits until it has heard
            await settled()
            assert [each.served for each in all_of_them] == [[A, B], [A, B]]
            assert (await rollback(leaders[1])).status == 200
            assert [each.orders.current for each in all_of_them] == [A, A]

    run(work())


def test_a_restarted_coordinator_hears_what_is_served_before_it_judges_a_promotion() -> None:
    async def work() -> None:
        leader = coordinator(before=1)
        promotion = asyncio.create_task(leader.promote(C, B.sha256, await leader.turn()))
        await asyncio.sleep(0.05)
        async with living(leader, StandIn("r", orders=Orders(3, B, A, (A,)))):
            assert (await promotion).status == 200
            assert (leader.orders.current, leader.orders.history) == (C, (A, B))
        leader = coordinator(before=1)
        back = asyncio.create_task(rollback(leader))
        await asyncio.sleep(0.05)
        async with living(leader, StandIn("r", orders=Orders(4, C, A, (A, B)))):
            assert (await back).status == 200
            assert (leader.orders.current, leader.orders.history) == (B, (A,))

    run(work())


def test_a_coordinator_that_dies_between_the_replicas_steps_brings_all_to_one_model() -> None:
    async def work() -> None:
        ahead = StandIn("ahead", orders=Orders(1, B, A, (A,)))
        behind = StandIn("behind")
        leader = coordinator(before=2)
        async with living(leader, behind, ahead):
            await settled()
            assert (ahead.orders.current, behind.orders.current) == (B, B)

    run(work())


def test_a_candidate_that_was_under_way_is_forgotten_after_a_restart() -> None:
    async def work() -> None:
        one = StandIn("r", orders=Orders(3, B, A, (A,), "id", C))
        leader = coordinator(before=1)
        async with living(leader, one):
            await settled()
            assert leader.orders == Orders(3, B, A, (A,))

    run(work())


def test_a_restarted_coordinator_waits_for_a_report_but_not_for_ever() -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await coordinator(before=1).current()).current == A
        assert QUICK.settle <= loop.time() - began < QUICK.settle + 1
        began = loop.time()
        await coordinator().current()
        assert loop.time() - began < QUICK.settle / 2

    run(work())


def test_the_replicas_of_another_deployment_are_neither_followed_nor_led() -> None:
    async def work() -> None:
        leader = coordinator(deployed=C)
        old, new = StandIn("old", orders=Orders(5, B, A, (A,))), StandIn("new", Orders(0, C, C))
        async with living(leader, old, new):
            await settled()
            assert leader.orders == Orders(0, C, C)
            assert (old.served, new.served) == ([B], [C])
            assert [report.replica for report in await leader.replicas()] == ["new"]

    run(work())
