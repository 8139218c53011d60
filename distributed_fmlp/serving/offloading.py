"""Keeps the event loop free: heavy decoding in threads, and no work for a client that left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.exchange import ClientGone, Request

T = TypeVar("T")
_PATIENCE = 0.05  # seconds a prediction may take before the connection is watched


class Workers:
    """A few threads for what would hold up other requests; only so many may wait for one."""

    def __init__(self, threads: int, most_waiting: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._most = threads + most_waiting
        self._taken = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[[], T], deadline: float | None = None) -> T:
        """The result of `work()`, done in a thread.

        Raises `RequestError` 503 where too many wait, and where its turn comes past `deadline`, on
        time.monotonic's clock: it isn't done at all then.
        """
        with self._lock:
            if self._taken >= self._most:
                raise RequestError(503, "too many large bodies at once; try again in a moment")
            self._taken += 1
        done = self._threads.submit(work if deadline is None else _unless_late(work, deadline))
        # counted until the thread is done with it, even if nobody waits for it any more
        done.add_done_callback(self._give_back)
        return await asyncio.wrap_future(done)

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _give_back(self, _: object) -> None:
        with self._lock:
            self._taken -= 1


def _unless_late(work: Callable[[], T], deadline: float) -> Callable[[], T]:
    def done_in_time() -> T:
        if monotonic() > deadline:
            raise RequestError(503, "the request waited too long; try again in a moment")
        return work()

    return done_in_time


async def unless_client_leaves(
    request: Request, work: Awaitable[T], patience: float = _PATIENCE
) -> T:
    """The result of `work`, which is cancelled when the client closes the connection.

    The body must have been read. Raises `ClientGone` then. Work shorter than `patience` isn't
    watched at all, as that would cost each request a task.
    """
    task = asyncio.current_task()
    assert task is not None
    watch = _Watch(request, task)
    timer = asyncio.get_running_loop().call_later(patience, watch.start)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.client_left:
            raise
        task.uncancel()
        raise ClientGone from None
    finally:
        timer.cancel()
        watch.stop()


class _Watch:
    def __init__(self, request: Request, watched: asyncio.Task[object]) -> None:
        self.client_left = False
        self._request = request
        self._watched = watched
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._listening = asyncio.create_task(self._listen())

    def stop(self) -> None:
        if self._listening is not None:
            self._listening.cancel()

    async def _listen(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.client_left = True
        self._watched.cancel()
