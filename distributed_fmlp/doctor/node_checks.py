"""Judges what nodes said about themselves, against this machine and against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed_fmlp.doctor.cluster_nodes import ExaminedNode
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.doctor.node_facts import LIBRARIES

CLOCK_SECONDS = 2.0  # requests to S3 are refused at 15 minutes, but logs mislead long before
LEAST_FREE_BYTES = 2 << 30
# Ray's own bound, RAY_local_fs_capacity_threshold, above which a node spills no object to its disk.
# A sweep's objects fit in memory (the data set is 55 MB), so it is to be known and stops nothing.
FULLEST = 0.95
LEAST_MEMORY_BYTES = 1 << 30
_SETUP = "run `ray up` again from this checkout, or install it there with its constraints.txt"

_OTHERS = tuple(name for name in LIBRARIES if name not in ("ray", "torch"))

Judge = Callable[[ExaminedNode], tuple[str, str] | None]


def check_nodes(nodes: Sequence[ExaminedNode], here: dict[str, Any]) -> list[Finding]:
    """One finding per check where all nodes are well, and one per node that isn't.

    `here` are the facts of the machine that a sweep would be started from.
    """
    found = [
        failed(
            "answer",
            f"{node.name} didn't answer ({node.error})",
            "see its log below /tmp/ray/session_latest/logs there, and restart Ray on it",
        )
        for node in nodes
        if node.error is not None
    ]
    asked = [node for node in nodes if node.error is None]
    if not asked:
        return found
    found += _versions(asked, here)
    found += _each(asked, "CPUs", _cpus, _total(asked, "cpus", "CPU"))
    found += _each(asked, "GPUs", _gpus, _total(asked, "gpus", "GPU"))
    found += _each(asked, "clock", _clock, f"within {CLOCK_SECONDS:g} s of this machine's")
    found += _each(asked, "disk", _disk, _least_disk(asked))
    found += [told for node in asked for told in _nearly_full(node)]
    found += _each(asked, "memory", _memory, _least_memory(asked))
    found += _each(asked, "token", _token_care, _token_kept(asked))
    return found


def check_this_node(node: ExaminedNode) -> list[Finding]:
    """What can be judged of one machine that is asked alone."""
    found = _each([node], "CPUs", _cpus, _total([node], "cpus", "CPU"))
    found += _each([node], "GPUs", _gpus, _total([node], "gpus", "GPU"))
    found += _each([node], "disk", _disk, _least_disk([node]))
    found += _nearly_full(node)
    found += _each([node], "memory", _memory, _least_memory([node]))
    return [*found, *_each([node], "token", _token_care, _token_kept([node]))]


def _each(nodes: Sequence[ExaminedNode], check: str, judge: Judge, well: str) -> list[Finding]:
    bad = [
        failed(check, f"{node.name} {verdict[0]}", verdict[1])
        for node in nodes
        if (verdict := judge(node)) is not None
    ]
    everywhere = f" on all {len(nodes)} nodes" if len(nodes) > 1 else ""
    return bad or [ok(check, f"{well}{everywhere}")]


def _versions(nodes: Sequence[ExaminedNode], here: dict[str, Any]) -> list[Finding]:
    found = _each(
        nodes,
        "Python",
        lambda node: _differs(node.facts["python"], here["python"], "Python"),
        here["python"],
    )
    groups = (("Ray", ("ray",)), ("torch", ("torch",)), ("libraries", _OTHERS))
    for check, libraries in groups:
        wanted = {name: here["libraries"][name] for name in libraries if name in here["libraries"]}
        shown = ", ".join(f"{name} {version}" for name, version in wanted.items())
        found += _each(nodes, check, _libraries(wanted), shown)
    return [*found, *_each(nodes, "package", lambda node: _package(node, here), _identity(here))]


def _differs(there: str, here: str, what: str) -> tuple[str, str] | None:
    return None if there == here else (f"has {what} {there}, this machine {here}", _SETUP)


def _libraries(wanted: Mapping[str, str]) -> Judge:
    """Names every library that a node has in another version, or not at all."""

    def judge(node: ExaminedNode) -> tuple[str, str] | None:
        there: Mapping[str, str] = node.facts["libraries"]
        wrong = [
            f"{name} {there[name]} (here {version})" if name in there else f"no {name}"
            for name, version in wanted.items()
            if there.get(name) != version
        ]
        return (f"has {', '.join(wrong)}", _SETUP) if wrong else None

    return judge


def _package(node: ExaminedNode, here: dict[str, Any]) -> tuple[str, str] | None:
    there = node.facts["package"]
    if there is None:
        return "has no distributed_fmlp", _SETUP
    if there["version"] != here["package"]["version"]:
        return _differs(there["version"], here["package"]["version"], "distributed_fmlp")
    if there["sha256"] != here["package"]["sha256"]:
        told = f"has other sources of distributed_fmlp {there['version']} in {there['place']}"
        return told, _SETUP
    return None


def _identity(facts: dict[str, Any]) -> str:
    package = facts["package"]
    return f"distributed_fmlp {package['version']}, sources {package['sha256'][:12]}"


def _cpus(node: ExaminedNode) -> tuple[str, str] | None:
    if node.cpus > node.facts["cpus"]:
        return (
            f"offers {node.cpus:g} CPUs to Ray and has {node.facts['cpus']}",
            "leave --num-cpus out of its ray start, or give at most that",
        )
    return None


def _gpus(node: ExaminedNode) -> tuple[str, str] | None:
    torch = node.facts["torch"]
    if "error" in torch:
        return f"can't import torch ({torch['error']})", _SETUP
    if node.gpus > torch["gpus"]:
        return (
            f"offers {node.gpus:g} GPUs to Ray and torch sees {torch['gpus']} (built for CUDA "
            f"{torch['cuda']})",
            "install a driver new enough for that CUDA, or a build of torch for CUDA where it "
            "says -",
        )
    if torch["gpus"] > node.gpus:
        return (
            f"has {torch['gpus']} GPUs that torch sees and offers {node.gpus:g} to Ray",
            "leave --num-gpus out of its ray start",
        )
    return None


def _clock(node: ExaminedNode) -> tuple[str, str] | None:
    off = abs(node.clock_offset)
    if off - node.clock_doubt <= CLOCK_SECONDS:
        return None
    way = "ahead of" if node.clock_offset > 0 else "behind"
    return (
        f"is {off:.1f} s {way} this machine (± {node.clock_doubt:.3f} s)",
        "let its clock follow a time server (timedatectl set-ntp true)",
    )


def _disk(node: ExaminedNode) -> tuple[str, str] | None:
    for directory, disk in node.facts["disks"].items():
        if disk is None:
            continue
        if disk["free"] < LEAST_FREE_BYTES:
            return (
                f"has {_size(disk['free'])} free of {_size(disk['total'])} for {directory}",
                f"make room: at least {_size(LEAST_FREE_BYTES)}",
            )
    return None


def _nearly_full(node: ExaminedNode) -> list[Finding]:
    """A note where a disk has room enough, but Ray would take it for full."""
    return [
        note(
            "disk",
            f"{node.name} has {_size(disk['free'])} free of {_size(disk['total'])} for {directory}",
            f"Ray spills no object to a disk that is more than {FULLEST:.0%} full; "
            "a sweep and a service need none spilled",
        )
        for directory, disk in node.facts["disks"].items()
        if disk is not None
        and disk["free"] >= LEAST_FREE_BYTES
        and disk["free"] < (1 - FULLEST) * disk["total"]
    ][:1]


def _memory(node: ExaminedNode) -> tuple[str, str] | None:
    free = node.facts["memory"]
    if free is None or free >= LEAST_MEMORY_BYTES:
        return None
    return f"has {_size(free)} of memory left", "stop what uses it, or take a larger machine"


def _token_care(node: ExaminedNode) -> tuple[str, str] | None:
    care = node.facts["token"]
    if care["told_to_processes"]:
        return (
            "shows Ray's token in its process list",
            "give it as a file (~/.ray/auth_token), end that process, and make a new token",
        )
    if care["file_mode"] is not None and care["file_mode"] & 0o077:
        return f"lets others read {care['file']}", f"chmod 600 {care['file']} there"
    return None


def _token_kept(nodes: Sequence[ExaminedNode]) -> str:
    if all(node.facts["token"]["file"] is None for node in nodes):
        return "in no process list, and in no file either"
    return "in no process list, and its file is its owner's alone"


def _total(nodes: Sequence[ExaminedNode], attribute: str, unit: str) -> str:
    total = sum(getattr(node, attribute) for node in nodes)
    return f"{total:g} {unit}{'' if total == 1 else 's'}"


def _least_disk(nodes: Sequence[ExaminedNode]) -> str:
    free = [disk["free"] for node in nodes for disk in node.facts["disks"].values() if disk]
    return f"{_size(min(free))} free or more" if free else "not known"


def _least_memory(nodes: Sequence[ExaminedNode]) -> str:
    free = [node.facts["memory"] for node in nodes if node.facts["memory"] is not None]
    return f"{_size(min(free))} left or more" if free else "not known"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.1f} GiB"


def check_room(nodes: Sequence[ExaminedNode]) -> list[Finding]:
    """Whether a trial or a replica finds a CPU at all."""
    if any(node.cpus >= 1 for node in nodes):
        return []
    return [
        failed(
            "room",
            f"no node offers a CPU to a trial ({len(nodes)} alive)",
            "ask for workers (cluster/README.md), or let the head take work (--num-cpus)",
        )
    ]


def check_lost(lost: Sequence[str]) -> list[Finding]:
    """Nodes that were there and are no more."""
    return [
        note("nodes", f"node {address} was there and is lost", "ray up brings it back")
        for address in lost
    ]
