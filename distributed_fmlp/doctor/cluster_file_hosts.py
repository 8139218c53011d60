"""Whether the machines that a cluster file names are distinct, and known by these names."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from distributed_fmlp.doctor.findings import Finding, failed, note, ok

_LOOKUP_SECONDS = 5.0  # in all


def check_hosts(provider: Mapping[str, Any]) -> list[Finding]:
    """The head's and the workers' addresses, where the file names them; asks the resolver alone."""
    if "coordinator_address" in provider:
        return []
    head, workers = provider["head_ip"], provider["worker_ips"]
    named = [head, *workers] if isinstance(workers, list) else [head, workers]
    strange = [str(name) for name in named if not isinstance(name, str) or not name.strip()]
    if strange or not isinstance(workers, list):
        return [
            failed(
                "hosts",
                f"{', '.join(strange) or workers} is no address",
                "give head_ip one address, and worker_ips a list of them",
            )
        ]
    twice = sorted({name for name in named if named.count(name) > 1})
    found = [
        failed("hosts", f"{name} is named twice", "name each machine once, the head in head_ip")
        for name in twice
    ]
    unknown = _unknown(list(dict.fromkeys(named)))
    for name in unknown:
        if name == head:
            advice = "give its address, or let this machine know the name (/etc/hosts)"
            found.append(failed("hosts", f"this machine knows no {name}, the head", advice))
        else:
            advice = "the head must know it, which logs in there"
            found.append(note("hosts", f"this machine knows no {name}, a worker", advice))
    return found or [ok("hosts", f"a head and {len(workers)} others, each named once")]


def _unknown(names: Sequence[str]) -> list[str]:
    """Those of `names` that the resolver doesn't know, or not in time."""
    known: set[str] = set()

    def look_up(name: str) -> None:
        try:
            socket.getaddrinfo(name, None)
        except (OSError, UnicodeError):
            return
        known.add(name)

    threads = [threading.Thread(target=look_up, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LOOKUP_SECONDS / len(threads))
    return [name for name in names if name not in known]
