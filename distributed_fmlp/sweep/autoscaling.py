"""Asks a cluster's autoscaler for the nodes that the trials need, and waits for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from distributed_fmlp.sweep.resources import living_nodes, room

PATIENCE_SECONDS = 900.0  # a GPU node of a cloud takes five to ten minutes with its packages
_UNANSWERED_SECONDS = 30.0  # nothing more is started: that is all there will be
_PAUSE_SECONDS = 1.0
_TOLD_EVERY_SECONDS = 30.0
# `ray up` and KubeRay name the kind of each node they start; the machines of a `local` provider are
# all there are.
_KIND_LABEL = "ray.io/node-group"
_MACHINES_THAT_ARE_THERE = "local.cluster.node"


def ask_for_nodes(
    n_trials: int, cpus: int, gpus: float, tell: Callable[[str], None], patience: float
) -> None:
    """Have nodes started until `n_trials` with so many CPUs and GPUs each run at once.

    Returns when they do, when the autoscaler starts no more, or after `patience` seconds: the sweep
    goes on with what is there then. At once where there is room already, or no autoscaler. `tell`
    gets a line now and then.
    """
    if room(living_nodes(), cpus, gpus) >= n_trials or not _has_autoscaler():
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    # As the trials will ask. Not `request_resources`: Ray's second autoscaler does nothing for a
    # request that it can't meet in whole, and one that isn't taken back stays for ever.
    share = {"CPU": float(cpus), **({"GPU": gpus} if gpus else {})}
    held = [placement_group([share]) for _ in range(n_trials)]
    try:
        _wait(n_trials, cpus, gpus, tell, patience)
    finally:
        for group in held:  # from here on the trials themselves hold their nodes
            remove_placement_group(group)


def _wait(
    n_trials: int, cpus: int, gpus: float, tell: Callable[[str], None], patience: float
) -> None:
    began = last_sign = time.monotonic()
    last_told, told = 0.0, (-1, -1)
    while True:
        now = time.monotonic()
        places, starting = min(room(living_nodes(), cpus, gpus), n_trials), _starting()
        if starting or places != told[0]:
            last_sign = now
        if (places, starting) != told or now - last_told > _TOLD_EVERY_SECONDS:
            last_told, told = now, (places, starting)
            tell(
                f"Waiting for nodes ({now - began:.0f} s): {places} of {n_trials} trials have a "
                f"place, {starting} nodes are starting"
            )
        if places == n_trials or now - began > patience or now - last_sign > _UNANSWERED_SECONDS:
            return
        time.sleep(_PAUSE_SECONDS)


def _has_autoscaler() -> bool:
    """Whether nodes of this cluster are started by an autoscaler, not by hand."""
    import ray

    list_nodes: Any = ray.nodes
    kinds = [
        node.get("Labels", {}).get(_KIND_LABEL)
        for node in list_nodes()
        if node["Alive"] and "node:__internal_head__" in node["Resources"]
    ]
    return any(kind and kind != _MACHINES_THAT_ARE_THERE for kind in kinds)


def _starting() -> int:
    """How many nodes the autoscaler is starting just now."""
    import ray
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    if is_autoscaler_v2():
        from ray.autoscaler.v2.sdk import get_cluster_status

        context: Any = ray.get_runtime_context()
        status: Any = get_cluster_status(str(context.gcs_address))
        launches = sum(int(launch.count) for launch in status.pending_launches)
        return launches + len(status.pending_nodes)
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    content: Any = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = (json.loads(content) if content else {}).get("autoscaler_report") or {}
    launches = sum(int(count) for count in (report.get("pending_launches") or {}).values())
    return launches + len(report.get("pending_nodes") or ())
