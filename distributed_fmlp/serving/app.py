"""The application that Ray Serve deploys, built from checked arguments.

`serve run` and `serve deploy` name `build_app` in serve/config.yaml; the command line calls it too.
"""
# No postponed annotations: Serve reads the builder's to validate `args`.

import asyncio
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from distributed_fmlp.serving.coordinator import Coordinator, Orders, Pinned
from distributed_fmlp.serving.model import find_bundle, open_model
from distributed_fmlp.serving.node_address import keep_replica_to_node_address
from distributed_fmlp.serving.replica import Replica
from distributed_fmlp.serving.settings import ServiceArguments, read_token

APP_NAME = "fmlp"
REPLICA_NAME = "fmlp"
_REPORTS_AT_ONCE = 10_000  # every replica's report waits at the coordinator for news


class CoordinatorDeployment(Coordinator):
    """The coordinator as an actor of Serve's."""

    async def __init__(self, bundle: str, sha256: str) -> None:  # type: ignore[misc]
        keep_replica_to_node_address()
        deployed = Pinned(bundle, sha256)
        restarted = await asyncio.to_thread(_replicas_run, serve.get_replica_context().app_name)
        super().__init__(Orders(0, deployed, deployed), restarted=restarted)


def _replicas_run(app_name: str) -> bool:
    """Whether replicas of this service run already, so that this is a restart."""
    deployment = serve.status().applications[app_name].deployments.get(REPLICA_NAME)
    return deployment is not None and "RUNNING" in deployment.replica_states


def build_app(args: ServiceArguments) -> Application:
    """The service for a verified bundle.

    Raises `UserError` when the bundle is refused, or there is none, or the token can't be used.
    """
    read_token(args.token_file)
    bundle = find_bundle(args.bundle, Path(args.results))
    model = open_model(bundle)
    deploy: Any = serve.deployment
    coordinator = deploy(
        CoordinatorDeployment,
        name="coordinator",
        num_replicas=1,
        max_ongoing_requests=_REPORTS_AT_ONCE,
        ray_actor_options={"num_cpus": 0},
    ).bind(bundle, model.served.sha256)
    deployment = deploy(
        serve.ingress()(Replica),
        name=REPLICA_NAME,
        num_replicas=args.replicas,
        # The replica refuses what is too much itself, in the protocol's words.
        max_ongoing_requests=4 * args.max_queued,
        max_queued_requests=args.max_queued,
        max_surge_percent=100,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=20,
        ray_actor_options=_actor_options(args),
    )
    arguments: dict[str, Any] = args.model_dump() | {"bundle": bundle}
    application: Application = deployment.bind(arguments, coordinator)
    return application


def _actor_options(args: ServiceArguments) -> dict[str, float]:
    return {"num_cpus": args.cpus_per_replica, "num_gpus": args.gpus_per_replica}
