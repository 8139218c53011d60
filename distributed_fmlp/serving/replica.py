"""One replica: batches requests and computes them off the event loop, with the model ordered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from distributed_fmlp.errors import BundleError, DataError, UserError
from distributed_fmlp.serving import shortcut
from distributed_fmlp.serving.accuracy import check_not_worse
from distributed_fmlp.serving.batching import Part, Work, compute_batch
from distributed_fmlp.serving.bundle_place import find_bundle
from distributed_fmlp.serving.coordinator import (
    Orders,
    Outcome,
    Pinned,
    Report,
    Turn,
    status_of,
)
from distributed_fmlp.serving.coordinator_actor import running_replicas
from distributed_fmlp.serving.engine import (
    Answer,
    Comparison,
    Images,
    PromotionRequest,
    ServedModel,
    ServiceStatus,
)
from distributed_fmlp.serving.errors import RequestError
from distributed_fmlp.serving.following import Follower
from distributed_fmlp.serving.gathering import Gatherer
from distributed_fmlp.serving.http import HttpService, HttpSettings
from distributed_fmlp.serving.lease import clock
from distributed_fmlp.serving.limits import Limits
from distributed_fmlp.serving.metrics import Metrics, merge
from distributed_fmlp.serving.model import InferenceModel, open_model, public_address
from distributed_fmlp.serving.node_address import keep_replica_to_node_address
from distributed_fmlp.serving.reach import check_reach, http_host
from distributed_fmlp.serving.settings import ServiceArguments, read_token
from distributed_fmlp.serving.single_write import join_head_and_body

logger = logging.getLogger(__name__)
_CHUNKS_AT_ONCE = 2  # of one big request, so that small ones get their turn between them
_METRICS_SECONDS = 2.0  # what the other replicas counted may be missing, its own never is


class Replica:
    """The deployment's class; implements `Engine` for the HTTP side."""

    async def __init__(  # type: ignore[misc]
        self, arguments: dict[str, Any], coordinator: Any
    ) -> None:
        keep_replica_to_node_address()
        join_head_and_body()
        self._settings = ServiceArguments(**arguments)
        # The node's own: it may have been started without the token that others have.
        self._token = read_token(self._settings.token_file)
        self._is_local = check_reach(
            await asyncio.to_thread(http_host),
            has_token=self._token is not None,
            insecure=self._settings.insecure,
        )
        self._coordinator = coordinator
        self._device = _assigned_device()
        torch.set_num_threads(max(1, int(self._settings.cpus_per_replica)))
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._metrics = Metrics()
        self._queued = 0  # requests
        self._queued_images = 0
        self._gather = self._gatherer()
        context = serve.get_replica_context()
        self._follower = Follower(
            context.replica_id.unique_id,
            coordinator,
            self._load,
            self._metrics.families,
            lambda: running_replicas(context.app_name, coordinator.deployment_name) > 0,
        )
        await self._follower.start()

    def __serve_build_asgi_app__(self) -> HttpService:
        settings = self._settings
        service = HttpService(
            self,
            HttpSettings(
                token=self._token,
                is_local=self._is_local,
                limits=Limits(
                    max_body_bytes=settings.max_body_bytes, max_images=settings.max_images
                ),
                allowed_hosts=frozenset(settings.allowed_hosts),
                deadline_seconds=settings.deadline_s,
            ),
            self._metrics,
        )
        shortcut.offer(service)
        return service

    # Engine

    @property
    def model(self) -> ServedModel | None:
        """`None` while another model may be served elsewhere: nothing is answered then."""
        return self._follower.model.served if self._follower.may_answer else None

    def check_capacity(self) -> None:
        self._check_room_for(1)

    async def predict(self, images: Images, deadline: float) -> Answer:
        count = len(images)
        self._check_room_for(count)
        # One model for the whole request, whatever is promoted meanwhile.
        model = self._follower.model
        self._queued += 1
        self._queued_images += count
        self._metrics.queue(self._queued)
        try:
            parts = await self._compute_parts(model, images, deadline)
        finally:
            self._queued -= 1
            self._queued_images -= count
            self._metrics.queue(self._queued)
        self._check_may_answer()  # it may have been stopped or cut off meanwhile
        probabilities = [part[0] for part in parts]
        labels = [part[1] for part in parts]
        if len(parts) > 1:
            probabilities, labels = [np.concatenate(probabilities)], [np.concatenate(labels)]
        self._metrics.predicted(model.served, labels[0])
        return Answer(model.served, probabilities[0], labels[0])

    async def promote(self, request: PromotionRequest) -> ServiceStatus:
        loop = asyncio.get_running_loop()
        self._check_may_answer()
        served, asked_at = self._follower.model, clock()
        try:
            pinned, compared = await loop.run_in_executor(
                self._loading, self._examined, served, request
            )
        except (BundleError, DataError) as error:
            raise RequestError(422, str(error)) from error
        turn = await self._turn(asked_at)
        status = await self._changed(self._coordinator.promote, pinned, served.served.sha256, turn)
        return replace(status, accuracy=compared)

    def _examined(
        self, served: InferenceModel, request: PromotionRequest
    ) -> tuple[Pinned, Comparison]:
        """What to promote, verified here first. What errors say, the client may read."""
        where = request.bundle
        if "://" not in where:
            try:
                where = find_bundle(where, Path(self._settings.results))
            except UserError as error:
                logger.warning("a promotion is refused: %s", error)
                raise BundleError(
                    f"{request.bundle} is refused: the service sees there neither a bundle nor a "
                    "run with one; check the name, and that it is where the service runs"
                ) from error
        candidate = open_model(where, self._device, f"bundle {public_address(request.bundle)}")
        return Pinned(where, candidate.served.sha256), check_not_worse(served, candidate, request)

    async def rollback(self) -> ServiceStatus:
        self._check_may_answer()
        turn = await self._turn(clock())
        return await self._changed(self._coordinator.rollback, turn)

    async def _turn(self, asked_at: float) -> Turn:
        """The right to change the model, for an order that came at that time on `lease.clock`."""
        turn: Turn = await self._ask(self._coordinator.turn)
        if not self._follower.in_touch_since(asked_at):
            # Cut off for so long it may have been given up, and been asked of another replica.
            raise self._busy(
                "this replica was out of touch with the others meanwhile, and the model was not "
                "changed"
            )
        return turn

    async def _changed(self, method: Any, *arguments: Any) -> ServiceStatus:
        # Carried out to its end once it is asked for, even where the client leaves.
        outcome = await asyncio.shield(self._ask(method, *arguments))
        return await self._after(outcome)

    async def status(self) -> ServiceStatus:
        reports: list[Report] = await self._ask(self._coordinator.replicas)
        self._check_may_answer()
        history = self._follower.orders.history
        return ServiceStatus(
            model=self._follower.model.served,
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
        families[self._follower.name] = self._metrics.families()  # its own are newer
        return merge(families)

    # Serve's own calls

    async def check_health(self) -> None:
        """Healthy while the inference thread answers."""
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.run_in_executor(self._compute, int), 10)

    async def __del__(self) -> None:
        await self._follower.stop()
        self._compute.shutdown(wait=False)
        self._loading.shutdown(wait=False)

    # Computing

    async def _compute_parts(
        self, model: InferenceModel, images: Images, deadline: float
    ) -> list[Any]:
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

    def _gatherer(self) -> Callable[[Work], Awaitable[Part]]:
        """What makes requests a batch. Not `serve.batch`: docs/serving.md says what that costs."""
        settings = self._settings
        return Gatherer(self._infer, settings.max_batch_size, settings.batch_wait_ms / 1000)

    async def _infer(self, works: list[Work]) -> list[Part]:
        """The answers to works of several requests, computed together."""
        self._metrics.batch(sum(len(work.images) for work in works))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._compute, compute_batch, works)

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

    def _check_room_for(self, images: int) -> None:
        self._check_may_answer()
        # A few requests of many images each are as much work as many of one.
        full = self._queued_images + images > self._settings.max_queued_images
        if self._queued >= self._settings.max_queued or (self._queued and full):
            raise self._busy("over capacity")

    def _check_may_answer(self) -> None:
        if not self._follower.may_answer:
            raise self._busy("this replica was out of touch with the others")

    def _busy(self, why: str) -> RequestError:
        seconds = self._settings.retry_after_s
        return RequestError(
            503, f"{why}; try again in {seconds} s", headers={"Retry-After": str(seconds)}
        )

    async def _load(self, pinned: Pinned) -> InferenceModel:
        """Load and verify a bundle off the event loop; requests go on meanwhile."""
        loop = asyncio.get_running_loop()
        # By no path: who rolls back is not always who promoted.
        called = f"the bundle {pinned.sha256[:12]}"
        model = await loop.run_in_executor(
            self._loading, open_model, pinned.bundle, self._device, called
        )
        if model.served.sha256 != pinned.sha256:
            raise BundleError(
                f"{called} is refused: where it was, there are other weights now; promote it again"
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
        while self._follower.orders.generation < orders.generation and time.monotonic() < until:
            await asyncio.sleep(0.01)
        return await self.status()


def _assigned_device() -> torch.device:
    """The device Ray gave this replica; one without a GPU still sees them all."""
    if ray.get_runtime_context().get_accelerator_ids().get("GPU") and torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")
