"""Until when a replica may answer: for as long as no promotion can have passed it by."""

from __future__ import annotations

import time
from collections.abc import Callable

LEASE_SECONDS = 4.5
SILENCE_SECONDS = 6.0  # the coordinator changes the model without a replica silent for longer


def clock() -> float:
    """Seconds that go on while a process is stopped or its machine sleeps."""
    boot_time: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)


class Lease:
    """A replica's right to answer; see docs/serving.md for the protocol and why it is enough."""

    def __init__(self, seconds: float = LEASE_SECONDS, now: Callable[[], float] = clock) -> None:
        """It doesn't hold before it is first renewed."""
        self.seconds = seconds
        self._now = now
        self._until = self._since = float("-inf")

    @property
    def holds(self) -> bool:
        return self._now() < self._until

    @property
    def runs_low(self) -> bool:
        """Whether more than two fifths of it are over."""
        return self._until - self._now() < 0.6 * self.seconds

    def unbroken_since(self, moment: float) -> bool:
        """Whether it holds, and has held at all times since then."""
        return self.holds and self._since <= moment

    def renew(self, asked_at: float) -> None:
        """After orders were carried out that the coordinator was asked for at that time."""
        if not self.holds:
            self._since = self._now()
        self._until = max(self._until, asked_at + self.seconds)

    def extend(self, asked_at: float) -> None:
        """When no coordinator was there at that time; once lapsed, only orders bring it back."""
        if self.holds:
            self.renew(asked_at)
