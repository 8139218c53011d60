"""How the machine or cluster is shared out among trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distributed_fmlp.errors import ClusterError, OptionError

# A step of this network is too short for more threads or more trials on one GPU to pay.
MOST_THREADS = 4
MOST_TRIALS_PER_GPU = 4


@dataclass(frozen=True)
class Node:
    """What one machine offers to trials."""

    cpus: int
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What each trial gets, and how many run at once."""

    cpus_per_trial: int
    gpus_per_trial: float
    at_once: int


def living_nodes() -> list[Node]:
    """The living nodes of the connected Ray."""
    import ray

    list_nodes: Any = ray.nodes
    return [
        Node(cpus=int(node["Resources"].get("CPU", 0)), gpus=float(node["Resources"].get("GPU", 0)))
        for node in list_nodes()
        if node["Alive"]
    ]


def plan(
    nodes: Sequence[Node],
    n_trials: int,
    *,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
) -> Plan:
    """Share `nodes` out among `n_trials` (at least 1), never promising a CPU or GPU twice.

    Raises `OptionError` when a trial is to have more than any node has, `ClusterError` when no node
    has a CPU.
    """
    most_cpus = max((node.cpus for node in nodes), default=0)
    if most_cpus < 1:
        raise ClusterError("no node offers a CPU to trials: start one that does (ray status)")
    if cpus_per_trial is not None and cpus_per_trial > most_cpus:
        raise OptionError(
            f"--cpus-per-trial {cpus_per_trial}: the largest node has {most_cpus} CPUs; give at "
            f"most {most_cpus}"
        )
    most_gpus = max(node.gpus for node in nodes)
    if gpus_per_trial is not None and gpus_per_trial > most_gpus:
        raise OptionError(
            f"--gpus-per-trial {gpus_per_trial:g}: the largest node has {most_gpus:g} GPUs; give "
            f"at most {most_gpus:g}"
        )
    wanted = min(n_trials, max_concurrent or n_trials)
    gpus = _gpu_share(nodes, wanted) if gpus_per_trial is None else gpus_per_trial
    cpus = cpus_per_trial or _threads(nodes, wanted, gpus)
    places = room(nodes, cpus, gpus)
    if places < 1:
        raise OptionError(
            f"--cpus-per-trial {cpus} and --gpus-per-trial {gpus:g}: no single node has both; give "
            "less of one"
        )
    return Plan(cpus, gpus, min(wanted, places))


def _gpu_share(nodes: Sequence[Node], wanted: int) -> float:
    total = sum(int(node.gpus) for node in nodes)
    if total == 0:
        return 0.0
    return 1.0 / min(MOST_TRIALS_PER_GPU, math.ceil(wanted / total))


def _threads(nodes: Sequence[Node], wanted: int, gpus: float) -> int:
    """The most threads per trial with which as many trials run at once as with one each."""
    reachable = min(wanted, room(nodes, 1, gpus))
    fitting = [n for n in range(1, MOST_THREADS + 1) if room(nodes, n, gpus) >= reachable]
    return max(fitting, default=1)


def room(nodes: Sequence[Node], cpus: int, gpus: float) -> int:
    """How many trials with so many CPUs and GPUs each fit at once."""
    return sum(
        min(node.cpus // cpus, _gpu_room(node.gpus, gpus)) if gpus else node.cpus // cpus
        for node in nodes
    )


def _gpu_room(has: float, each: float) -> int:
    if each >= 1:
        return int(has // each)
    return int(has) * math.floor(1.0 / each + 1e-9)  # a fraction is never split over two GPUs
