"""The coordinator as Serve runs it. Imports no torch: its process has no model."""

from __future__ import annotations

import asyncio

from ray import serve

from distributed_fmlp.serving.coordinator import Coordinator, Orders, Pinned
from distributed_fmlp.serving.node_address import keep_replica_to_node_address


class CoordinatorActor(Coordinator):
    """One actor for a service, told what it was deployed with."""

    async def __init__(  # type: ignore[misc]
        self, bundle: str, sha256: str, replicas: str
    ) -> None:
        """`replicas` is the name of the deployment that it coordinates."""
        keep_replica_to_node_address()
        deployed = Pinned(bundle, sha256)
        app_name = serve.get_replica_context().app_name
        before = await asyncio.to_thread(running_replicas, app_name, replicas)
        super().__init__(Orders(0, deployed, deployed), before=before)


def running_replicas(app_name: str, deployment: str) -> int:
    """How many replicas of a deployment Serve's controller takes to run now."""
    application = serve.status().applications.get(app_name)
    found = application.deployments.get(deployment) if application else None
    states = found.replica_states if found else {}
    return sum(count for state, count in states.items() if state == "RUNNING")
