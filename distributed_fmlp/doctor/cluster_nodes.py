"""Gathers facts on every node of a running Ray: an actor pinned to each is asked, all at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed_fmlp.doctor import node_facts

_ANSWER_SECONDS = 150.0
_CLOCK_READINGS = 5


class Examiner:
    """Lives on one node and answers for it."""

    def clock(self) -> float:
        return node_facts.clock()

    def facts(self, data_dir: str | None) -> dict[str, Any]:
        import ray

        node: Any = ray._private.worker._global_node
        return node_facts.gather_facts([str(node.get_session_dir_path()), "~"], data_dir)

    def lets_anyone_in(self, port: int) -> bool | None:
        return node_facts.lets_anyone_in(port)

    def unreachable(self, addresses: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        return node_facts.unreachable(addresses)

    def write(self, storage: Any) -> str | None:
        """Write a file named after this node into the storage; gives what was wrong."""
        import ray

        context: Any = ray.get_runtime_context()
        node_id = str(context.get_node_id())
        try:
            storage.write(mark(node_id), node_id)
        except Exception as error:  # whatever the file system raises is the answer
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        return None

    def marks_seen(self, storage: Any, node_ids: Sequence[str]) -> list[str]:
        """The nodes whose files are there, whole, seen from here."""
        return [node_id for node_id in node_ids if _read(storage, node_id) == mark(node_id)]

    def clear(self, storage: Any) -> None:
        """Delete the storage's directory, which may be this node's own."""
        # Where it is shared, others are at it at the same moment.
        with contextlib.suppress(Exception):
            storage.delete_directory()


def mark(node_id: str) -> bytes:
    """What a node writes: enough of it that a full disk is noticed."""
    return node_id.encode() * 1024


def _read(storage: Any, name: str) -> bytes | None:
    try:
        return bytes(storage.read(name))
    except Exception:
        return None


@dataclass
class ExaminedNode:
    """A living node of the cluster and its answers; `error` says why there are none."""

    node_id: str
    address: str
    is_head: bool
    cpus: float  # as Ray counts them
    gpus: float
    ports: list[int]  # that other nodes must reach
    metrics_port: int | None = None  # where Ray tells whoever asks how this node is doing
    examiner: Any = None
    facts: dict[str, Any] = field(default_factory=dict)
    clock_offset: float = 0.0  # s ahead of this machine
    clock_doubt: float = 0.0  # s
    error: str | None = None

    @property
    def name(self) -> str:
        host = self.facts.get("host")
        known = f"{host} ({self.address})" if host and host != self.address else self.address
        return f"{'head' if self.is_head else 'node'} {known}"


def examine_nodes(data_dir: str | None) -> tuple[list[ExaminedNode], list[str]]:
    """The living nodes with their facts, the head first, and the addresses of those lost."""
    import ray

    list_nodes: Any = ray.nodes
    listed = list_nodes()
    nodes = [_node(entry) for entry in listed if entry["Alive"]]
    nodes.sort(key=lambda node: (not node.is_head, node.address, node.node_id))
    living = {node.address for node in nodes}
    lost = sorted({entry["NodeManagerAddress"] for entry in listed if not entry["Alive"]} - living)
    send_by_value: Any = ray.cloudpickle.register_pickle_by_value
    for module in _modules():
        send_by_value(module)
    for node in nodes:
        node.examiner = _start_examiner(node.node_id)
    ask(nodes, "facts", data_dir, into="facts")
    _measure_clocks(nodes)
    return nodes, lost


def ask(
    nodes: Sequence[ExaminedNode], method: str, *arguments: Any, into: str | None = None
) -> dict[str, Any]:
    """Ask all nodes that answer the same; gives the answers by node id.

    A node that doesn't answer in time, or dies, gets its `error` and is asked no more.
    """
    import ray

    waiting = {
        getattr(node.examiner, method).remote(*arguments): node
        for node in nodes
        if node.error is None
    }
    if not waiting:
        return {}
    ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_ANSWER_SECONDS)
    answers: dict[str, Any] = {}
    for reference, node in waiting.items():
        try:
            if reference not in ready:
                raise TimeoutError(f"no answer within {_ANSWER_SECONDS:.0f} s")
            answers[node.node_id] = ray.get(reference)
        except Exception as error:  # Ray raises what the node's own code or its death gives
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            node.error = lines[-1].split(" Worker exit type")[0] if lines else type(error).__name__
        else:
            if into is not None:
                setattr(node, into, answers[node.node_id])
    return answers


def _node(entry: dict[str, Any]) -> ExaminedNode:
    resources = entry["Resources"]
    return ExaminedNode(
        node_id=entry["NodeID"],
        address=entry["NodeManagerAddress"],
        is_head="node:__internal_head__" in resources,
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        ports=[int(entry["NodeManagerPort"]), int(entry["ObjectManagerPort"])],
        metrics_port=int(entry.get("MetricsExportPort") or 0) or None,
    )


def _start_examiner(node_id: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(Examiner)
    return remote.options(
        num_cpus=0,
        max_restarts=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
    ).remote()


def _measure_clocks(nodes: Sequence[ExaminedNode]) -> None:
    """Compare clocks as NTP does: the reading with the shortest round trip is the best.

    Nodes are asked one by one, as an answer that waits for others would tell nothing.
    """
    for node in nodes:
        readings = []
        for _ in range(_CLOCK_READINGS):
            sent = time.time()
            there = ask([node], "clock").get(node.node_id)
            back = time.time()
            if there is None:  # it was lost meanwhile, which `ask` has written down
                break
            readings.append(((back - sent) / 2, there - (sent + back) / 2))
        else:
            node.clock_doubt, node.clock_offset = min(readings)


def _modules() -> list[Any]:
    """Modules that a node may have in another version, or not at all."""
    import sys

    from distributed_fmlp import errors
    from distributed_fmlp.sweep import storage

    return [node_facts, errors, storage, sys.modules[__name__]]
