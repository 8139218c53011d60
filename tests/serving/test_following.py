"""A replica that follows: it answers only while no promotion can have passed it by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from distributed_fmlp.errors import BundleError
from distributed_fmlp.serving.coordinator import Coordinator, Orders, Patience, Pinned
from distributed_fmlp.serving.following import Follower
from distributed_fmlp.serving.lease import Lease

A, B = (Pinned(f"/bundles/{name}", name * 64) for name in "ab")
QUICK = Patience(news=0.05, silence=0.8, prepare=2.0, follow=1.0, settle=0.3)
LEASE = 0.5


@dataclass
class Line:
    """The way to the coordinator, as a deployment's handle; it can be cut."""

    leader: Coordinator
    cut: bool = False
    loses: bool = False  # for good what is asked while it is cut

    def __getattr__(self, name: str) -> Any:
        async def remote(*arguments: Any) -> Any:
            if self.cut and self.loses:
                await asyncio.Event().wait()
            while self.cut:
                await asyncio.sleep(0.01)
            answer = await getattr(self.leader, name)(*arguments)
            while self.cut:
                await asyncio.sleep(0.01)
            return answer

        return SimpleNamespace(remote=remote)


@dataclass
class Loader:
    seconds: float = 0.0
    refusals: dict[Pinned, Exception] = field(default_factory=dict)

    async def __call__(self, pinned: Pinned) -> Any:
        await asyncio.sleep(self.seconds)
        if pinned in self.refusals:
            raise self.refusals[pinned]
        return SimpleNamespace(
            served=SimpleNamespace(sha256=pinned.sha256, version=pinned.sha256[:12])
        )


def follower(name: str, line: Line, loader: Loader, runs: Callable[[], bool]) -> Follower:
    return Follower(name, line, loader, dict, runs, Lease(LEASE))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def leader_of_a() -> Coordinator:
    return Coordinator(Orders(0, A, A), QUICK)


def test_one_that_was_out_of_touch_for_a_promotion_answers_only_with_the_new_model() -> None:
    async def work() -> None:
        leader = leader_of_a()
        lines = [Line(leader), Line(leader)]
        loader = Loader()
        stays, goes = (follower(str(n), line, loader, lambda: True) for n, line in enumerate(lines))
        await stays.start()
        await goes.start()
        assert stays.may_answer and goes.may_answer
        lines[1].cut = True
        while len(await leader.replicas()) == 2:
            await asyncio.sleep(0.01)
        assert not goes.may_answer  # before the coordinator leaves it out
        assert (await leader.promote(B, A.sha256, await leader.turn())).status == 200
        assert stays.model.served.sha256 == B.sha256
        assert goes.model.served.sha256 == A.sha256 and not goes.may_answer
        loader.seconds = 0.2
        lines[1].cut = False
        while not goes.may_answer:
            await asyncio.sleep(0.001)
        assert goes.model.served.sha256 == B.sha256
        assert stays.may_answer
        await stays.stop()
        await goes.stop()

    run(work())


def test_one_whose_question_is_lost_on_the_way_asks_again() -> None:
    async def work() -> None:
        line = Line(leader_of_a(), loses=True)
        one = follower("r", line, Loader(), lambda: True)
        await one.start()
        line.cut = True
        while one.may_answer:
            await asyncio.sleep(0.01)
        line.cut = False
        async with asyncio.timeout(5):
            while not one.may_answer:
                await asyncio.sleep(0.01)
        await one.stop()

    run(work())


def test_one_answers_on_while_the_coordinator_is_gone_and_not_while_it_is_only_out_of_reach() -> (
    None
):
    async def work() -> None:
        runs = False
        line = Line(leader_of_a())
        one = follower("r", line, Loader(), lambda: runs)
        one._lease = Lease(2.0)
        await one.start()
        line.cut = True
        await asyncio.sleep(3.5)
        assert one.may_answer
        runs = True
        await asyncio.sleep(3.0)
        assert not one.may_answer
        runs = False  # too late: it may have been passed by
        await asyncio.sleep(1.2)
        assert not one.may_answer
        line.cut = False
        await asyncio.sleep(0.3)
        assert one.may_answer
        await one.stop()

    run(work())


def test_a_candidate_that_takes_longer_to_load_than_the_lease_costs_no_answer() -> None:
    async def work() -> None:
        leader = leader_of_a()
        loader = Loader()
        one = follower("r", Line(leader), loader, lambda: True)
        await one.start()
        loader.seconds = 3 * LEASE
        promotion = asyncio.create_task(leader.promote(B, A.sha256, await leader.turn()))
        while not promotion.done():
            assert one.may_answer
            await asyncio.sleep(0.01)
        assert (await promotion).status == 200
        assert one.model.served.sha256 == B.sha256
        await one.stop()

    run(work())


@pytest.mark.parametrize(
    ("error", "said"),
    [(BundleError("the bundle is refused"), "the bundle is refused"), (KeyError("/x"), "failed")],
)
def test_a_candidate_that_can_not_be_loaded_is_refused(error: Exception, said: str) -> None:
    async def work() -> None:
        leader = leader_of_a()
        one = follower("r", Line(leader), Loader(refusals={B: error}), lambda: True)
        await one.start()
        outcome = await leader.promote(B, A.sha256, await leader.turn())
        assert outcome.status == 422 and said in (outcome.refusal or "")
        assert "/x" not in (outcome.refusal or "")
        assert one.model.served.sha256 == A.sha256 and one.may_answer
        await one.stop()

    run(work())


def test_after_a_restart_nothing_is_changed_before_all_are_heard_or_must_be_silent() -> None:
    async def work() -> None:
        leader = Coordinator(Orders(0, A, A), QUICK, before=2)
        one = follower("r", Line(leader), Loader(), lambda: True)
        await one.start()
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await leader.promote(B, A.sha256, await leader.turn())).status == 200
        assert loop.time() - began > QUICK.silence / 2  # the second was waited for
        began = loop.time()
        assert (await leader.rollback(await leader.turn())).status == 200
        assert loop.time() - began < QUICK.silence / 2
        await one.stop()

    run(work())


def test_one_that_starts_is_known_before_it_answers() -> None:
    async def work() -> None:
        leader = leader_of_a()
        one = follower("r", Line(leader), Loader(), lambda: True)
        assert not one.may_answer
        loop = asyncio.get_running_loop()
        began = loop.time()
        await one.start()
        assert loop.time() - began < QUICK.news
        assert [report.replica for report in await leader.replicas()] == ["r"]
        await one.stop()

    run(work())
