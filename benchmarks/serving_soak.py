"""A soak: this service under load for a while, and what its processes' memory does meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

MIB = 1 << 20
_EVERY_SECONDS = 1.0
# How a process' first command word ends, and what it is.
_ROLES = {
    "ray::ServeReplica:fmlp:fmlp": "replica",
    "ray::ServeReplica:fmlp:coordinator": "coordinator",
    "ray::HAProxyManager": "proxy actor",
    "ray::ProxyActor": "proxy actor",
    "ray::ServeController": "controller",
    "/haproxy": "HAProxy",
}


class MemoryWatch:
    """Samples RSS and USS (pages of the process alone) of a service's processes in a thread."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = time.perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.samples: list[dict[str, Any]] = []

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            roles: dict[str, dict[str, float]] = {}
            for role, process in processes_of(self._pid):  # HAProxy is started anew at times
                try:
                    memory = process.memory_full_info()
                except psutil.Error:
                    continue
                sums = roles.setdefault(role, {"rss_mib": 0.0, "uss_mib": 0.0})
                sums["rss_mib"] += memory.rss / MIB
                sums["uss_mib"] += memory.uss / MIB
            self.samples.append({"seconds": time.perf_counter() - self._began, "roles": roles})


def processes_of(pid: int) -> list[tuple[str, psutil.Process]]:
    """The processes of a service below its command's, each with what it is."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        for end, role in _ROLES.items():
            # Ray adds the method that runs: ray::ServeReplica:fmlp:fmlp.method
            if words and (words[0].endswith(end) or words[0].startswith(f"{end}.")):
                found.append((role, process))
                break
    return found


def growth_mib(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How much own memory each role gained (MiB), from the second quarter's median to the last's.

    The first quarter is left out: buffers and caches fill up to the load once.
    """
    quarter = len(samples) // 4
    if quarter < 1:
        return {}
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]

    def median(part: Sequence[Mapping[str, Any]], role: str) -> float:
        return statistics.median(sample["roles"][role]["uss_mib"] for sample in part)

    roles = set.intersection(*(set(sample["roles"]) for sample in (*early, *late)))
    return {role: median(late, role) - median(early, role) for role in sorted(roles)}
