"""One replica: batches requests, computes off the event loop, follows the coordinator's orders."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from distributed_fmlp.errors import BundleError, DataError
from distributed_fmlp.serving import shortcut
from distributed_fmlp.serving.accuracy import check_not_worse
from distributed_fmlp.serving.batching import Part, Work, compute_batch
from distributed_fmlp.serving.coordinator import Orders, Outcome, Pinned, Report, status_of
from distributed_fmlp.serving.engine import (
    Answer,
    Images,
    PromotionRequest,
    ServedModel,
    ServiceStatus,
)
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.gathering import Gatherer
from distributed_fmlp.serving.http import HttpService, HttpSettings
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.metrics import Metrics, merge
from distributed_fmlp.serving.model import InferenceModel, open_model
from distributed_fmlp.serving.node_address import keep_replica_to_node_address
from distributed_fmlp.serving.settings import ServiceArguments, read_token
from distributed_fmlp.serving.single_write import join_head_and_body

logger = logging.getLogger(__name__)
_CHUNKS_AT_ONCE = 2  # of one big request, so that small ones get their turn between them
_RETRY_SECONDS = 1.0
_LEAVE_SECONDS = 1.0
_METRICS_SECONDS = 2.0  # what the other replicas counted may be missing, its own never is


class Replica:
    """The deployment's class; implements `Engine` for the HTTP side."""

    async def __init__(  # type: ignore[misc]
        self, arguments: dict[str, Any], coordinator: Any
    ) -> None:
        keep_replica_to_node_address()
        join_head_and_body()
        self._settings = ServiceArguments(**arguments)
        self._coordinator = coordinator
        self._name = serve.get_replica_context().replica_id.unique_id
        self._device = _assigned_device()
        torch.set_num_threads(max(1, int(self._settings.cpus_per_replica)))
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._metrics = Metrics()
        self._queued = 0  # requests
        self._queued_images = 0
        self._prepared: tuple[str, InferenceModel | None, str | None] | None = None
        self._infer.set_max_batch_size(self._settings.max_batch_size)  # type: ignore[attr-defined]
        self._gather = Gatherer(
            self._infer, self._settings.max_batch_size, self._settings.batch_wait_ms / 1000
        )
        self._orders: Orders = await coordinator.current.remote()
        self._model = await self._load(self._orders.current)
        # What is served may have changed while it was loaded.
        await self._carry_out(await coordinator.current.remote())
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    def __serve_build_asgi_app__(self) -> HttpService:
        settings = self._settings
        service = HttpService(
            self,
            HttpSettings(
                token=read_token(settings.token_file),
                limits=Limits(
                    max_body_bytes=settings.max_body_bytes, max_images=settings.max_images
                ),
                allowed_hosts=frozenset(settings.allowed_hosts),
            ),
            self._metrics,
        )
        shortcut.offer(service)
        return service

    # Engine

    @property
    def model(self) -> ServedModel | None:
        return self._model.served

    async def predict(self, images: Images) -> Answer:
        count = len(images)
        # A few requests of many images each are as much work as many of one.
        full = self._queued_images + count > self._settings.max_queued_images
        if self._queued >= self._settings.max_queued or (self._queued and full):
            raise self._busy("over capacity")
        model = self._model  # one model for the whole request, whatever is promoted meanwhile
        self._queued += 1
        self._queued_images += count
        self._metrics.queue(self._queued)
        try:
            parts = await self._compute_parts(model, images)
        finally:
            self._queued -= 1
            self._queued_images -= count
            self._metrics.queue(self._queued)
        probabilities = [part[0] for part in parts]
        labels = [part[1] for part in parts]
        if len(parts) > 1:
            probabilities, labels = [np.concatenate(probabilities)], [np.concatenate(labels)]
        self._metrics.predicted(model.served, labels[0])
        return Answer(model.served, probabilities[0], labels[0])

    async def promote(self, request: PromotionRequest) -> ServiceStatus:
        loop = asyncio.get_running_loop()
        try:
            candidate = await loop.run_in_executor(
                self._loading, open_model, request.bundle, self._device
            )
            await loop.run_in_executor(
                self._loading, check_not_worse, self._model, candidate, request
            )
        except (BundleError, DataError) as error:
            raise RequestError(422, str(error)) from error
        pinned = Pinned(request.bundle, candidate.served.sha256)
        return await self._after(await self._ask(self._coordinator.promote, pinned))

    async def rollback(self) -> ServiceStatus:
        return await self._after(await self._ask(self._coordinator.rollback))

    async def status(self) -> ServiceStatus:
        reports: list[Report] = await self._ask(self._coordinator.replicas)
        history = self._orders.history
        return ServiceStatus(
            model=self._model.served,
            previous=history[-1].sha256[:12] if history else None,
            ready=True,
            replicas=status_of(reports),
        )

    async def metrics(self) -> bytes:
        reports: list[Report] = []
        with contextlib.suppress(RequestError, TimeoutError):
            async with asyncio.timeout(_METRICS_SECONDS):
                reports = await self._ask(self._coordinator.replicas)
        families = {report.replica: report.metrics for report in reports if report.metrics}
        families[self._name] = self._metrics.families()  # its own are newer
        return merge(families)

    # Serve's own calls

    async def check_health(self) -> None:
        """Healthy while the inference thread answers."""
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(self._compute, int), 10)

    async def __del__(self) -> None:
        self._follower.cancel()
        # When the whole service ends the coordinator may be gone already, and the call would wait.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._coordinator.leave.remote(self._name)
        self._compute.shutdown(wait=False)
        self._loading.shutdown(wait=False)

    # Computing

    async def _compute_parts(self, model: InferenceModel, images: Images) -> list[Any]:
        deadline = time.monotonic() + self._settings.deadline_s
        size = self._settings.max_batch_size
        if len(images) <= size:
            return [await self._part(Work(model, images, deadline))]
        works = [
            Work(model, images[start : start + size], deadline)
            for start in range(0, len(images), size)
        ]
        turn = asyncio.Semaphore(_CHUNKS_AT_ONCE)

        async def compute(work: Work) -> Any:
            async with turn:
                return await self._part(work)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(compute(work)) for work in works]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None  # one reason is enough, in its own words
        return [task.result() for task in tasks]

    @serve.batch(
        max_batch_size=128,
        batch_wait_timeout_s=0.0,
        batch_size_fn=lambda batches: sum(len(work.images) for works in batches for work in works),
    )
    async def _infer(self, batches: list[list[Work]]) -> list[list[Part]]:
        """Batches gathered over requests, computed together; their size is set live."""
        works = [work for batch in batches for work in batch]
        self._metrics.batch(sum(len(work.images) for work in works))
        loop = asyncio.get_running_loop()
        parts = iter(await loop.run_in_executor(self._compute, compute_batch, works))
        return [list(islice(parts, len(batch))) for batch in batches]

    async def _part(self, work: Work) -> Any:
        """The answer to one work. `RequestError` 503 when it waited too long."""
        try:
            part = await self._gather(work)
        except asyncio.CancelledError:
            work.abandoned = True
            raise
        if isinstance(part, RequestError):
            raise self._busy(part.message)
        if isinstance(part, Exception):
            raise RuntimeError("the model failed") from part
        return part

    def _busy(self, why: str) -> RequestError:
        seconds = self._settings.retry_after_s
        return RequestError(
            503, f"{why}; try again in {seconds} s", headers={"Retry-After": str(seconds)}
        )

    # Following

    async def _follow(self) -> None:
        """Report to the coordinator and carry out its orders, as long as the replica lives."""
        while True:
            try:
                orders: Orders = await self._coordinator.report.remote(self._report())
                await self._carry_out(orders)
            except asyncio.CancelledError:
                raise
            except Exception:
                # The coordinator restarts, or its node is cut off: serve on, and try again.
                logger.exception("no orders from the coordinator; the model stays as it is")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _carry_out(self, orders: Orders) -> None:
        if orders.generation > self._orders.generation:
            ready = self._prepared[1] if self._prepared else None
            if ready is not None and ready.served.sha256 == orders.current.sha256:
                model = ready
            elif self._model.served.sha256 == orders.current.sha256:
                model = self._model
            else:
                model = await self._load(orders.current)
            self._model = model
            self._prepared = None
        self._orders = orders
        if orders.candidate is None or orders.candidate_id is None:
            return
        if self._prepared is None or self._prepared[0] != orders.candidate_id:
            try:
                prepared, refusal = await self._load(orders.candidate), None
            except BundleError as error:
                prepared, refusal = None, str(error)
            self._prepared = (orders.candidate_id, prepared, refusal)

    def _report(self) -> Report:
        prepared = self._prepared
        return Report(
            replica=self._name,
            node=socket.gethostname(),
            serving=self._orders,
            version=self._model.served.version,
            prepared_id=prepared[0] if prepared else None,
            refusal=prepared[2] if prepared else None,
            metrics=self._metrics.families(),
        )

    async def _load(self, pinned: Pinned) -> InferenceModel:
        """Load and verify a bundle off the event loop; requests go on meanwhile."""
        loop = asyncio.get_running_loop()
        model = await loop.run_in_executor(self._loading, open_model, pinned.bundle, self._device)
        if model.served.sha256 != pinned.sha256:
            raise BundleError(
                f"bundle {pinned.bundle} is refused: it is no longer the one that was chosen; "
                "promote it again"
            )
        return model

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        """A call of the coordinator. `RequestError` 503 when it is lost meanwhile."""
        try:
            return await method.remote(*arguments)
        except (RayError, RayServeException) as error:
            logger.warning("the coordinator was lost: %r", error)
            raise RequestError(
                503, "the replicas' coordinator was lost; ask for the status, then try again"
            ) from error

    async def _after(self, outcome: Outcome) -> ServiceStatus:
        if outcome.refusal is not None:
            raise RequestError(outcome.status, outcome.refusal)
        # This replica may hear of the change after the coordinator has told it all.
        orders: Orders = await self._ask(self._coordinator.current)
        until = time.monotonic() + 5
        while self._orders.generation < orders.generation and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return await self.status()


def _assigned_device() -> torch.device:
    """The device Ray gave this replica; one without a GPU still sees them all."""
    if ray.get_runtime_context().get_accelerator_ids().get("GPU") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")
