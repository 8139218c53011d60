"""Which model all replicas serve: promotion in two phases, everywhere or nowhere.

Replicas report to the coordinator and wait there for news. A candidate is first loaded and checked
by every replica; only when all have it does the coordinator change over, and when one then doesn't
follow, it changes back. A replica that isn't heard of is left out, and may not answer by then; see
docs/serving.md. Knows no model and no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distributed_fmlp.serving.lease import SILENCE_SECONDS, clock

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pinned:
    """A bundle and the weights it must have: a directory's content may change."""

    bundle: str
    sha256: str


@dataclass(frozen=True)
class Orders:
    """What every replica is to serve, and what it is to prepare."""

    generation: int
    current: Pinned
    deployed: Pinned  # what the service was deployed with; never changes by a promotion
    history: tuple[Pinned, ...] = ()  # what a rollback brings back is last
    candidate_id: str | None = None
    candidate: Pinned | None = None


@dataclass(frozen=True)
class Report:
    """What one replica says of itself."""

    replica: str
    node: str
    serving: Orders  # the orders it last carried out
    version: str
    prepared_id: str | None = None
    refusal: str | None = None  # why the candidate can't be served
    metrics: Any = None


@dataclass
class _Seen:
    report: Report
    at: float


@dataclass(frozen=True)
class Outcome:
    """How a promotion ended: `refusal` is why it was undone, `status` its HTTP status."""

    refusal: str | None = None
    status: int = 200


@dataclass(frozen=True)
class Turn:
    """The right to change the model next. It doesn't last, and any change takes it from others."""

    coordinator: str
    changes: int  # how many this coordinator had begun when it was given
    at: float  # on its clock


@dataclass
class Patience:
    """Times in seconds."""

    news: float = 0.5  # how long a report waits for news before it is answered
    silence: float = SILENCE_SECONDS  # a replica not heard of for longer is gone, or cut off
    turn: float = SILENCE_SECONDS  # how long after it was given a turn may be taken
    prepare: float = 60.0
    follow: float = 10.0
    settle: float = 3.0  # how long a restarted coordinator waits to hear what is served


@dataclass
class Coordinator:
    """One per service. Its state is rebuilt from the replicas' reports if it is restarted.

    `before` is how many replicas were there before it, when it is restarted: no new one is told
    what to serve until one of them has been heard, and nothing is changed until all of them have,
    or those that haven't may no longer answer.
    """

    orders: Orders
    patience: Patience = field(default_factory=Patience)
    before: int = 0

    def __post_init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._changed = asyncio.Event()
        self._promoting = asyncio.Lock()
        self._heard = asyncio.Event()
        self._began: float | None = None  # when it was first asked something
        self._name = uuid.uuid4().hex
        self._changes = 0  # promotions and rollbacks begun
        if not self.before:
            self._heard.set()

    async def report(self, report: Report, wait: bool = True) -> Orders:
        """Take a replica's report; answered when there is news for it, or after a short while.

        Without `wait` it is answered at once.
        """
        self._begin()
        if report.serving.deployed != self.orders.deployed:
            # It belongs to a deployment of another bundle, which this one replaces: let it be.
            await asyncio.sleep(self.patience.news)
            return report.serving
        if report.serving.generation > self.orders.generation:
            # This coordinator has been restarted, and its replicas remember more than it does.
            self._order(replace(report.serving, candidate_id=None, candidate=None))
        self._heard.set()
        self._seen[report.replica] = _Seen(report, clock())
        self._forget_the_lost()
        if not wait or self._has_news_for(report):
            return self.orders
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), self.patience.news)
        return self.orders

    async def leave(self, replica: str) -> None:
        """A replica that shuts down says so, and is not waited for."""
        self._seen.pop(replica, None)
        self._forget_the_lost()

    async def current(self) -> Orders:
        """What to serve now."""
        self._begin()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), self.patience.settle)
        self._heard.set()
        return self.orders

    async def replicas(self) -> list[Report]:
        """The latest report of each replica heard of lately."""
        return [seen.report for seen in self._lately().values()]

    async def turn(self) -> Turn:
        """What a promotion or a rollback has to show."""
        return Turn(self._name, self._changes, clock())

    async def promote(self, candidate: Pinned, compared_with_sha256: str, turn: Turn) -> Outcome:
        """Serve `candidate` on every replica, or on none.

        Refused with 409 unless the model it was compared with is still the one served, and where
        its turn is over.
        """
        refusal = self._refusal(turn)
        if refusal is not None:
            return refusal
        async with self._promoting:
            self._changes += 1
            await self._all_before_are_known()
            current, history = self.orders.current, self.orders.history
            if current.sha256 != compared_with_sha256:
                return Outcome("another model was promoted meanwhile; try again", 409)
            if candidate.sha256 != current.sha256:  # else a rollback would change nothing
                history = (*history, current)[-10:]
            return await self._change(candidate, history)

    async def rollback(self, turn: Turn) -> Outcome:
        """Serve what was served before the last promotion, on every replica or on none."""
        refusal = self._refusal(turn)
        if refusal is not None:
            return refusal
        async with self._promoting:
            self._changes += 1
            await self._all_before_are_known()
            if not self.orders.history:
                return Outcome(
                    "there is nothing to roll back to: no model came before this one", 409
                )
            *rest, last = self.orders.history
            return await self._change(last, tuple(rest))

    def _refusal(self, turn: Turn) -> Outcome | None:
        """Why nobody may change the model now who shows this turn."""
        if self._promoting.locked():
            return Outcome("another promotion is under way; try again when it has ended", 409)
        if turn.coordinator == self._name and turn.changes != self._changes:
            return Outcome("another promotion was tried meanwhile; try again", 409)
        if turn.coordinator != self._name or clock() - turn.at > self.patience.turn:
            # Whoever wanted it may have given up, or been told that nothing was changed.
            return Outcome("this came late; the model was not changed; try again", 503)
        return None

    async def _change(self, candidate: Pinned, history: tuple[Pinned, ...]) -> Outcome:
        before = undone = self.orders
        candidate_id = uuid.uuid4().hex
        generation = before.generation + 1
        known = set(self._lately())
        self._order(replace(before, candidate_id=candidate_id, candidate=candidate))
        try:
            refusal = await self._all(
                known,
                lambda report: report.prepared_id == candidate_id,
                lambda report: report.refusal if report.prepared_id == candidate_id else None,
                self.patience.prepare,
            )
            if refusal is None:
                undone = replace(before, generation=generation + 1)
                self._order(Orders(generation, candidate, before.deployed, history))
                refusal = await self._all(
                    set(self._lately()) | known,
                    lambda report: report.serving.generation >= generation,
                    lambda report: None,
                    self.patience.follow,
                )
        except BaseException:  # such as a cancellation, when whoever asked has gone
            self._order(undone)
            raise
        if refusal is not None:
            self._order(undone)
            return refusal
        return Outcome()

    async def _all(
        self,
        known: set[str],
        holds: Callable[[Report], bool],
        refuses: Callable[[Report], str | None],
        patience: float,
    ) -> Outcome | None:
        """Wait until `holds` for every replica; else say why not all have come."""
        until = clock() + patience
        while True:
            lately = self._lately()
            gone = known - set(self._seen)  # those that left in good order
            silent = known - set(lately) - gone
            if silent:
                return Outcome(
                    f"{len(silent)} of {len(known)} replicas can't be reached; the model was not "
                    "changed", 503)  # fmt: skip
            for seen in lately.values():
                reason = refuses(seen.report)
                if reason is not None:
                    return Outcome(reason, 422)
            if lately and all(holds(seen.report) for seen in lately.values()):
                return None
            if clock() > until:
                return Outcome(
                    "not every replica was ready in time; the model was not changed", 503
                )
            await asyncio.sleep(0.02)

    def _begin(self) -> None:
        if self._began is None:
            self._began = clock()

    async def _all_before_are_known(self) -> None:
        """After a restart: wait until every replica was heard, or has been silent for too long.

        They may all have answered on while there was no coordinator.
        """
        self._begin()
        began = self._began or 0.0
        while len(self._seen) < self.before and clock() - began < self.patience.silence:
            await asyncio.sleep(0.02)

    def _lately(self) -> dict[str, _Seen]:
        oldest = clock() - self.patience.silence
        return {name: seen for name, seen in self._seen.items() if seen.at >= oldest}

    def _has_news_for(self, report: Report) -> bool:
        behind = report.serving.generation < self.orders.generation
        unprepared = (
            self.orders.candidate_id is not None and report.prepared_id != self.orders.candidate_id
        )
        return behind or unprepared

    def _order(self, orders: Orders) -> None:
        logger.info("orders: generation %s, %s", orders.generation, orders.current.sha256[:12])
        self.orders = orders
        self._changed.set()
        self._changed = asyncio.Event()

    def _forget_the_lost(self) -> None:
        """Forget replicas that have been silent for long."""
        longest = clock() - 10 * self.patience.silence
        for name in [name for name, seen in self._seen.items() if seen.at < longest]:
            del self._seen[name]


def status_of(reports: list[Report]) -> tuple[Mapping[str, Any], ...]:
    """Each replica's view as plain values."""
    return tuple(
        {
            "replica": report.replica,
            "node": report.node,
            "version": report.version,
            "generation": report.serving.generation,
        }
        for report in sorted(reports, key=lambda each: each.replica)
    )
