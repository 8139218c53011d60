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
        restarted = await asyncio.to_thread(_replicas_run, app_name, replicas)
        super().__init__(Orders(0, deployed, deployed), restarted=restarted)


def _replicas_run(app_name: str, name: str) -> bool:
    """Whether replicas of this service run already, so that this is a restart."""
    deployment = serve.status().applications[app_name].deployments.get(name)
    return deployment is not None and "RUNNING" in deployment.replica_states
