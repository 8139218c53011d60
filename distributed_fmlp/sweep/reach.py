"""Whether every node of a cluster reads and writes the storage: asked before training starts."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from typing import Any

from distributed_fmlp.errors import ClusterError, StorageError
from distributed_fmlp.sweep.storage import Storage

_SECONDS = 60.0
_REASON_LENGTH = 200


def check_every_node(storage: Storage) -> None:
    """Let each living node read what this process wrote into the storage, and write beside it.

    A directory of one node's own, or credentials that only this one has, would else show themselves
    at a trial's first checkpoint. Raises `StorageError` that names the nodes; `ClusterError` when a
    node doesn't answer or lacks this package.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    name = f".reach-{uuid.uuid4().hex}"
    list_nodes: Any = ray.nodes
    nodes = {node["NodeID"]: node for node in list_nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    remote: Any = ray.remote(num_cpus=0, max_retries=0)
    task = remote(_reach)
    made = storage.missing_directories()
    storage.patiently(lambda: storage.write(b"here", name, "driver"))
    try:
        asked = {
            task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(storage, name, node): node
            for node in nodes
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
        silent = [nodes[asked[ref]] for ref in asked if ref not in answered]
        if silent:
            raise ClusterError(
                f"{_names(silent)} didn't answer within {_SECONDS:.0f} s; look at ray status, and "
                "stop or restart what is not well"
            )
        refusals = []
        for ref in answered:
            try:
                reason = ray.get(ref)
            except Exception as error:  # whatever that node's Python raised, the import included
                lines = [line for line in str(error).splitlines() if line.strip()]
                raise ClusterError(
                    f"{_names([nodes[asked[ref]]])} can't run this program "
                    f"({lines[-1].strip()[:_REASON_LENGTH] if lines else type(error).__name__}); "
                    "install the same version there as here"
                ) from error
            written = reason is None and storage.exists(name, asked[ref])
            if not written:
                refusals.append((nodes[asked[ref]], reason or "what it wrote isn't seen here"))
        if refusals:
            reason = refusals[0][1]
            raise StorageError(
                f"the storage {storage.shown} is not the same place on every node: "
                f"{_names([node for node, _ in refusals])} can't use it ({reason}); give --storage "
                "a directory or URI that every node reaches, with the credentials on every node"
            )
    finally:
        with contextlib.suppress(OSError):
            storage.delete_directory(name)
        for directory in made:
            with contextlib.suppress(OSError):  # another sweep may have put something there
                os.rmdir(directory)


def _reach(storage: Storage, name: str, node: str) -> str | None:
    """On one node: read the driver's file, write one beside it. Why that fails, or `None`."""
    try:
        storage.read_now(name, "driver")
        storage.write(socket.gethostname().encode(), name, node)
    except FileNotFoundError:
        return "what this node wrote isn't seen there"
    except OSError as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:_REASON_LENGTH]
    return None


def _names(nodes: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes
    )
