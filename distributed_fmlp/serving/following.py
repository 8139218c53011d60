"""A replica's side of promotions: reports, carries out orders, and knows whether it may answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from distributed_fmlp.errors import BundleError
from distributed_fmlp.serving.coordinator import Orders, Pinned, Report
from distributed_fmlp.serving.lease import Lease, clock
from distributed_fmlp.serving.model import InferenceModel

logger = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0
_WATCH_SECONDS = 0.5
_LEAVE_SECONDS = 1.0
_PREPARING_SECONDS = 0.05  # between two reports while a candidate is loaded


@dataclass
class _Candidate:
    """What the coordinator may change over to."""

    identifier: str
    loading: asyncio.Task[InferenceModel]

    @property
    def model(self) -> InferenceModel | None:
        done = self.loading.done() and not self.loading.cancelled()
        return self.loading.result() if done and self.loading.exception() is None else None

    @property
    def refusal(self) -> str | None:
        """Why it can't be served. What is no `BundleError` is logged and not told."""
        if not self.loading.done() or self.loading.cancelled():
            return None
        error = self.loading.exception()
        if error is None or isinstance(error, BundleError):
            return None if error is None else str(error)
        logger.error("a candidate can't be loaded", exc_info=error)
        return "a replica failed to load the bundle; the model was not changed"


class Follower:
    """Does what the coordinator orders, from `start` until `stop`.

    `coordinator` is its handle in Ray Serve; `coordinator_runs` asks Serve's controller whether
    there is one, and blocks.
    """

    def __init__(
        self,
        name: str,
        coordinator: Any,
        load: Callable[[Pinned], Awaitable[InferenceModel]],
        metrics: Callable[[], Any],
        coordinator_runs: Callable[[], bool],
        lease: Lease | None = None,
    ) -> None:
        self.name = name
        self._coordinator = coordinator
        self._load = load
        self._metrics = metrics
        self._coordinator_runs = coordinator_runs
        self._lease = lease or Lease()
        self._candidate: _Candidate | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.orders: Orders
        self.model: InferenceModel

    @property
    def may_answer(self) -> bool:
        """Whether no promotion can have passed this replica by."""
        return self._lease.holds

    def in_touch_since(self, moment: float) -> bool:
        """Whether it might have answered at all times since then (on `lease.clock`)."""
        return self._lease.unbroken_since(moment)

    async def start(self) -> None:
        """Load what is to be served; returns when this replica is known and may answer."""
        self.orders = await self._coordinator.current.remote()
        self.model = await self._load(self.orders.current)
        await self._consult(wait=False)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._follow()), loop.create_task(self._watch())]

    async def stop(self) -> None:
        """Tell the coordinator that it isn't to wait for this replica."""
        for task in self._tasks:
            task.cancel()
        # When the whole service ends the coordinator may be gone already, and the call would wait.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._coordinator.leave.remote(self.name)

    async def _follow(self) -> None:
        while True:
            try:
                # An answer that takes longer renews nothing, and one that was lost on the way may
                # never come.
                await self._consult(patience=self._lease.seconds)
                if self._candidate is not None and not self._candidate.loading.done():
                    await asyncio.sleep(_PREPARING_SECONDS)
            except Exception:
                # The coordinator restarts, or its node is cut off: try again, and answer meanwhile
                # for as long as the lease holds.
                logger.exception("no orders from the coordinator; the model stays as it is")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _watch(self) -> None:
        """Answer on while there is no coordinator, which then can't have changed anything."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self._lease.holds and self._lease.runs_low:
                asked_at = clock()
                try:
                    runs = await asyncio.to_thread(self._coordinator_runs)
                except Exception:
                    logger.exception(
                        "Serve's controller doesn't say whether there is a coordinator"
                    )
                    continue
                if not runs:
                    self._lease.extend(asked_at)

    async def _consult(self, *, wait: bool = True, patience: float | None = None) -> None:
        """Report, and do what is ordered. `TimeoutError` where no answer comes in `patience` s."""
        # When the question was sent counts: its answer may have lain here for long.
        asked_at = clock()
        async with asyncio.timeout(patience):
            orders = await self._coordinator.report.remote(self._report(), wait)
        await self._carry_out(orders)
        self._lease.renew(asked_at)

    async def _carry_out(self, orders: Orders) -> None:
        if orders.generation > self.orders.generation:
            self.model = await self._ordered(orders.current)
            self._forget_candidate()
        self.orders = orders
        if orders.candidate is None or orders.candidate_id is None:
            return
        if self._candidate is None or self._candidate.identifier != orders.candidate_id:
            self._forget_candidate()
            loading = asyncio.ensure_future(self._load(orders.candidate))
            self._candidate = _Candidate(orders.candidate_id, loading)

    async def _ordered(self, current: Pinned) -> InferenceModel:
        ready = self._candidate.model if self._candidate else None
        for model in (ready, self.model):
            if model is not None and model.served.sha256 == current.sha256:
                return model
        return await self._load(current)

    def _forget_candidate(self) -> None:
        if self._candidate is not None:
            self._candidate.loading.cancel()
        self._candidate = None

    def _report(self) -> Report:
        candidate = self._candidate
        examined = candidate is not None and candidate.loading.done()
        return Report(
            replica=self.name,
            node=socket.gethostname(),
            serving=self.orders,
            version=self.model.served.version,
            prepared_id=candidate.identifier if candidate and examined else None,
            refusal=candidate.refusal if candidate and examined else None,
            metrics=self._metrics(),
        )
