"""Work in threads is bounded, and ends with the client that asked for it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import ClientGone, Message, Request
from distributed_fmlp.serving.offloading import Workers, unless_client_leaves


def request(*messages: Message) -> Request:
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return Request({"method": "POST", "path": "/", "headers": []}, receive)


def test_beyond_those_that_may_wait_the_answer_is_503_at_once() -> None:
    async def run() -> None:
        workers, gate = Workers(1, 1), threading.Event()
        held = [asyncio.create_task(workers.run(lambda: gate.wait(20))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as refused:
            await workers.run(lambda: 1)
        assert refused.value.status == 503
        gate.set()
        assert await asyncio.gather(*held) == [True, True]
        assert await workers.run(lambda: 1) == 1
        workers.stop()

    asyncio.run(run())


def test_a_thread_is_taken_until_it_is_done_even_when_nobody_waits() -> None:
    async def run() -> None:
        workers, gate = Workers(1, 0), threading.Event()
        begun = threading.Event()

        def work() -> None:
            begun.set()
            gate.wait(20)

        left = asyncio.create_task(workers.run(work))
        await asyncio.to_thread(begun.wait, 20)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        with pytest.raises(RequestError):
            await workers.run(lambda: 1)
        gate.set()
        for _ in range(200):
            try:
                assert await workers.run(lambda: 1) == 1
                break
            except RequestError:
                await asyncio.sleep(0.01)
        else:
            pytest.fail("the thread was never given back")
        workers.stop()

    asyncio.run(run())


def test_work_whose_turn_comes_past_its_deadline_is_not_done() -> None:
    async def run() -> None:
        workers, gate = Workers(1, 2), threading.Event()
        done: list[str] = []
        held = asyncio.create_task(workers.run(lambda: gate.wait(20)))
        late = asyncio.create_task(workers.run(lambda: done.append("late"), time.monotonic() + 0.1))
        good = asyncio.create_task(workers.run(lambda: done.append("good"), time.monotonic() + 60))
        await asyncio.sleep(0.2)
        gate.set()
        with pytest.raises(RequestError) as refused:
            await late
        assert refused.value.status == 503 and "waited too long" in refused.value.message
        await asyncio.gather(held, good)
        assert done == ["good"]
        workers.stop()

    asyncio.run(run())


def test_errors_of_the_work_reach_who_asked() -> None:
    def fails() -> None:
        raise RequestError(400, "damaged")

    async def run() -> None:
        workers = Workers(1, 0)
        with pytest.raises(RequestError, match="damaged"):
            await workers.run(fails)
        workers.stop()

    asyncio.run(run())


def test_work_of_a_client_that_left_is_cancelled_and_the_task_goes_on() -> None:
    async def run() -> None:
        ended: list[str] = []

        async def work() -> None:
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        with pytest.raises(ClientGone):
            await unless_client_leaves(request({"type": "http.disconnect"}), work())
        assert ended == ["cancelled"]
        await asyncio.sleep(0.01)  # nothing is left of the cancellation

    asyncio.run(run())


def test_a_cancellation_from_elsewhere_is_passed_on() -> None:
    async def run() -> None:
        task = asyncio.create_task(unless_client_leaves(request(), asyncio.sleep(20)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_short_work_never_reads_the_connection() -> None:
    read: list[int] = []

    async def receive() -> Message:
        read.append(1)
        return {"type": "http.disconnect"}

    async def run() -> int:
        asked = Request({"method": "POST", "path": "/", "headers": []}, receive)
        return await unless_client_leaves(asked, asyncio.sleep(0.001, 7))

    assert asyncio.run(run()) == 7 and read == []
