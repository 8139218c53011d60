"""The application that Ray Serve deploys, built from checked arguments.

`serve run` and `serve deploy` name `build_app` in serve/config.yaml.
"""
# No postponed annotations: Serve reads the builder's to validate `args`.

from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve import Application

from distributed_fmlp.serving.bundle_place import find_bundle
from distributed_fmlp.serving.coordinator import Pinned
from distributed_fmlp.serving.coordinator_actor import CoordinatorActor
from distributed_fmlp.serving.reach import (
    check_reach,
    check_replicas_reached,
    http_host,
    uses_haproxy,
)
from distributed_fmlp.serving.replica import Replica
from distributed_fmlp.serving.settings import ServiceArguments, read_token

APP_NAME = "fmlp"
REPLICA_NAME = "fmlp"
_REPORTS_AT_ONCE = 10_000  # every replica's report waits at the coordinator for news


def build_app(args: ServiceArguments) -> Application:
    """The service for a verified bundle.

    Raises `UserError` when the bundle is refused, or there is none, or the token can't be used or
    is missing where other machines reach the service, or HAProxy couldn't reach its replicas.
    """
    from distributed_fmlp.serving.model import open_model

    has_token = read_token(args.token_file) is not None
    host = http_host()
    check_reach(host, has_token=has_token, insecure=args.insecure)
    if host is not None and uses_haproxy():
        nodes: Any = ray.nodes
        check_replicas_reached(host, nodes())
    bundle = find_bundle(args.bundle, Path(args.results))
    return application(args, Pinned(bundle, open_model(bundle).served.sha256))


def application(args: ServiceArguments, deployed: Pinned) -> Application:
    """The service for a bundle that has been verified already."""
    deploy: Any = serve.deployment
    coordinator = deploy(
        CoordinatorActor,
        name="coordinator",
        num_replicas=1,
        max_ongoing_requests=_REPORTS_AT_ONCE,
        # A report always waits here; there is nothing else to be finished.
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
        # Replicas answer on without one only if the controller knows that it is gone.
        health_check_period_s=1,
        # On the head of a cluster, as Serve's controller: a worker may be lost at any time.
        ray_actor_options={"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}},
    ).bind(deployed.bundle, deployed.sha256, REPLICA_NAME)
    deployment = deploy(
        serve.ingress()(Replica),
        name=REPLICA_NAME,
        num_replicas=args.replicas,
        # The replica refuses what is too much itself, in the protocol's words.
        max_ongoing_requests=4 * args.max_queued,
        max_queued_requests=args.max_queued,
        backpressure_config={"status_code": 503, "retry_after_s": args.retry_after_s},
        max_surge_percent=100,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=20,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options=_actor_options(args),
    )
    arguments: dict[str, Any] = args.model_dump() | {"bundle": deployed.bundle}
    bound: Application = deployment.bind(arguments, coordinator)
    return bound


def _actor_options(args: ServiceArguments) -> dict[str, float]:
    return {"num_cpus": args.cpus_per_replica, "num_gpus": args.gpus_per_replica}
