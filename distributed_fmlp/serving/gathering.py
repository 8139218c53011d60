"""How requests become a batch: what arrives while one batch is computed makes the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from distributed_fmlp.serving.batching import Part, Work

_Waiting = tuple[Work, "asyncio.Future[Part]"]


class Gatherer:
    """Computes one batch at a time, first come first served, on one event loop.

    Under load batches fill while the one before is computed. Where none is, a batch starts at once
    if it has as many requests as the last one, and waits for them otherwise, `wait_seconds` at
    most: so a lone client never waits. `serve.batch` does the same with a fixed wait and costs
    more for each request; benchmarks/serving.py measures both.
    """

    def __init__(
        self,
        compute: Callable[[list[Work]], Awaitable[list[Part]]],
        most_images: int,
        wait_seconds: float,
    ) -> None:
        """`compute` answers works in their order; no work has more than `most_images`."""
        self._compute = compute
        self._most_images = most_images
        self._wait_seconds = wait_seconds
        self._waiting: deque[_Waiting] = deque()
        self._images = 0  # of those waiting
        self._expected = 1  # requests
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, work: Work) -> Part:
        """The answer to one work. Raises what `compute` raised; a cancelled one isn't computed."""
        future: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        self._images += len(work.images)
        self._consider()
        return await future

    def _consider(self) -> None:
        if self._running is not None or not self._waiting:
            return
        if len(self._waiting) >= self._expected or self._images >= self._most_images:
            self._start()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._wait_seconds, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = self._next_batch()
        if batch:
            self._running = asyncio.get_running_loop().create_task(self._run(batch))

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        images = 0
        while self._waiting:
            work, future = self._waiting[0]
            if batch and images + len(work.images) > self._most_images:
                break
            self._waiting.popleft()
            self._images -= len(work.images)
            if not future.done():  # else cancelled
                batch.append((work, future))
                images += len(work.images)
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        try:
            parts = await self._compute([work for work, _ in batch])
            for (_, future), part in zip(batch, parts, strict=True):
                if not future.done():
                    future.set_result(part)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._running = None
            self._expected = len(batch)
            self._consider()
