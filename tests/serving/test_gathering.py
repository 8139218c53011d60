"""Batches are gathered while one is computed; nobody waits alone; no request spoils another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest

from distributed_fmlp.serving.batching import Part, Work
from distributed_fmlp.serving.gathering import Gatherer


def work(images: int = 1) -> Work:
    return Work(cast(Any, None), np.zeros((images, 784), np.uint8), time.monotonic() + 60)


class Computing:
    """Answers each work with its number of images, when it is let to."""

    def __init__(self) -> None:
        self.batches: list[list[Work]] = []
        self.may_end = asyncio.Event()

    async def __call__(self, works: list[Work]) -> list[Part]:
        self.batches.append(works)
        await self.may_end.wait()
        return [(len(each.images), None) for each in works]

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def run(scenario: Callable[[Computing], Awaitable[None]]) -> None:
    async def within() -> None:
        await asyncio.wait_for(scenario(Computing()), 10)

    asyncio.run(within())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_lone_request_does_not_wait() -> None:
    async def scenario(computing: Computing) -> None:
        computing.may_end.set()
        gather = Gatherer(computing, 8, wait_seconds=60)
        for _ in range(3):
            assert await gather(work()) == (1, None)
        assert computing.sizes() == [1, 1, 1]

    run(scenario)


def test_what_arrives_while_a_batch_is_computed_makes_the_next() -> None:
    async def scenario(computing: Computing) -> None:
        gather = Gatherer(computing, 8, wait_seconds=60)
        waiting = [asyncio.ensure_future(gather(work())) for _ in range(6)]
        await turns()
        assert computing.sizes() == [1]
        computing.may_end.set()
        assert await asyncio.gather(*waiting) == [(1, None)] * 6
        assert computing.sizes() == [1, 5]

    run(scenario)


def test_a_batch_has_no_more_images_than_allowed_and_keeps_the_order() -> None:
    async def scenario(computing: Computing) -> None:
        gather = Gatherer(computing, 8, wait_seconds=0)
        works = [work(n) for n in (1, 5, 3, 8, 1, 1)]
        waiting = [asyncio.ensure_future(gather(each)) for each in works]
        computing.may_end.set()
        assert await asyncio.gather(*waiting) == [(n, None) for n in (1, 5, 3, 8, 1, 1)]
        assert [each for batch in computing.batches for each in batch] == works
        assert all(sum(len(each.images) for each in batch) <= 8 for batch in computing.batches)
        assert computing.sizes() == [1, 2, 1, 2]

    run(scenario)


def test_after_a_full_batch_fewer_requests_wait_once_and_no_longer_than_allowed() -> None:
    async def scenario(computing: Computing) -> None:
        computing.may_end.set()
        gather = Gatherer(computing, 8, wait_seconds=0.05)
        await asyncio.gather(*(gather(work()) for _ in range(5)))
        assert computing.sizes() == [1, 4]
        for least, most in ((0.04, 5.0), (0.0, 0.04)):
            began = time.monotonic()
            await gather(work())
            assert least <= time.monotonic() - began < most

    run(scenario)


def test_a_cancelled_request_is_not_computed() -> None:
    async def scenario(computing: Computing) -> None:
        gather = Gatherer(computing, 8, wait_seconds=60)
        first, gone, last = (asyncio.ensure_future(gather(work())) for _ in range(3))
        await turns()
        gone.cancel()
        await turns()
        computing.may_end.set()
        await asyncio.gather(first, last)
        assert computing.sizes() == [1, 1]

    run(scenario)


def test_a_failed_batch_fails_its_own_requests_and_the_next_is_computed() -> None:
    async def scenario(computing: Computing) -> None:
        async def compute(works: list[Work]) -> list[Part]:
            if len(works[0].images) == 3:
                raise ValueError("no")
            return await computing(works)

        computing.may_end.set()
        gather = Gatherer(compute, 8, wait_seconds=60)
        with pytest.raises(ValueError, match="no"):
            await gather(work(3))
        assert await gather(work(2)) == (2, None)

    run(scenario)
