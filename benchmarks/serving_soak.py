"""A soak: this service under load for a while, and what its processes' memory does meanwhile."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

MIB = 1 << 20
FEWEST_SAMPLES = 16  # fewer don't tell growth from chance
_EVERY_SECONDS = 1.0
# How a process' first command word ends, and what it is; what is none of these goes by its name.
_ROLES = {
    "ray::ServeReplica:fmlp:fmlp": "replica",
    "ray::ServeReplica:fmlp:coordinator": "coordinator",
    "ray::HAProxyManager": "proxy actor",
    "ray::ProxyActor": "proxy actor",
    "ray::ServeController": "controller",
    "/haproxy": "HAProxy",
}


class MemoryWatch:
    """Samples the memory of all of a service's processes in a thread.

    It is their PSS: what a page takes is shared out among the processes that have it, so the sum is
    what all take together.
    """

    def __init__(self, pid: int) -> None:
        """`pid` is the command's, which leads a session of its own."""
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
            roles: dict[str, float] = {}
            count = 0
            for process in processes_of(self._pid):
                with contextlib.suppress(psutil.Error, OSError):  # some end meanwhile
                    role, memory = role_of(process), process.memory_full_info().pss / MIB
                    roles[role] = roles.get(role, 0.0) + memory
                    count += 1
            seconds = time.perf_counter() - self._began
            self.samples.append({"seconds": seconds, "processes": count, "pss_mib": roles})


def processes_of(pid: int) -> list[psutil.Process]:
    """A command's process, all that came of it, and all in its session, whoever their parent is."""
    leader = psutil.Process(pid)
    found = {each.pid: each for each in (leader, *leader.children(recursive=True))}
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(each.pid) == pid:
                found[each.pid] = each
    return list(found.values())


def role_of(process: psutil.Process) -> str:
    """What a process of the service is."""
    words = process.cmdline()
    for end, role in _ROLES.items():
        # Ray adds the method that runs: ray::ServeReplica:fmlp:fmlp.method
        if words and (words[0].endswith(end) or words[0].startswith(f"{end}.")):
            return role
    return process.name()


def growth_mib(samples: Sequence[Mapping[str, Any]]) -> float:
    """By how much all processes together grew (MiB); NaN when too few samples were taken.

    From the second quarter's median to the last's: in the first, buffers and caches fill up to the
    load once.
    """
    return _growth([sum(sample["pss_mib"].values()) for sample in samples])


def growth_mib_by_role(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The same of each kind of process; one that isn't there counts as nothing."""
    roles = sorted({role for sample in samples for role in sample["pss_mib"]})
    return {
        role: _growth([sample["pss_mib"].get(role, 0.0) for sample in samples]) for role in roles
    }


def _growth(values: Sequence[float]) -> float:
    if len(values) < FEWEST_SAMPLES:
        return math.nan
    quarter = len(values) // 4
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])
