"""Checks a running cluster: joins it as a sweep would, and has every node examined."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from distributed_fmlp.doctor import node_facts
from distributed_fmlp.doctor.cluster_nodes import ExaminedNode, ask, examine_nodes
from distributed_fmlp.doctor.data_present import check_data
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.doctor.node_checks import check_lost, check_nodes, check_room
from distributed_fmlp.doctor.open_ports import ask_services, check_open_ports
from distributed_fmlp.doctor.shared_storage import check_storage
from distributed_fmlp.ray_session import ray_session

_WITHOUT_TOKEN_SECONDS = 30


def check_cluster(address: str, storage: str | None, data_dir: str | None) -> list[Finding]:
    """All checks of the cluster at `address`.

    Raises `ClusterError` when no Ray answers there, or it refuses this machine.
    """
    here = {
        "python": platform.python_version(),
        "libraries": node_facts.installed_versions(),
        "package": node_facts.package_identity(),
    }
    with ray_session(address):
        import ray

        context: Any = ray.get_runtime_context()
        head = str(context.gcs_address)
        nodes, lost = examine_nodes(data_dir)
        found = [_alive(nodes), *check_lost(lost), *check_nodes(nodes, here), *check_room(nodes)]
        found += check_storage(storage, nodes)
        found += _reach(nodes, head)
        found += check_data(data_dir, nodes)
        lets_in = ask_services(nodes)
    asked = _asks_for_token(head)
    return [*found, asked, *check_open_ports(nodes, lets_in, protected=asked.verdict == "ok")]


def _alive(nodes: Sequence[ExaminedNode]) -> Finding:
    names = ", ".join(node.name for node in nodes[:8])
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    return ok("nodes", f"{len(nodes)} alive: {names}{more}")


def _reach(nodes: Sequence[ExaminedNode], head: str) -> list[Finding]:
    """Each node connects to the ports of all others that Ray needs, and to the head's."""
    host, _, port = head.rpartition(":")
    wanted = [(node.address, port) for node in nodes for port in node.ports]
    wanted.append((host.strip("[]"), int(port)))
    answers = ask(nodes, "unreachable", wanted)
    by_id = {node.node_id: node for node in nodes}
    found = [
        failed(
            "ports",
            f"{by_id[node_id].name} doesn't reach "
            + ", ".join(f"{address}:{port}" for address, port in missed),
            "open every TCP port between the cluster's own nodes",
        )
        for node_id, missed in answers.items()
        if missed
    ]
    return found or [ok("ports", f"each node reaches the {len(wanted)} ports of Ray on all")]


def _asks_for_token(head: str) -> Finding:
    """Knock without a token, in a process of its own, as Ray reads its settings once."""
    code = (
        "import sys; from ray._raylet import GcsClient; "
        "GcsClient(address=sys.argv[1]).internal_kv_keys(b'', b'', 10)"
    )
    hidden = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["RAY_AUTH_MODE"] = "disabled"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, head],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_WITHOUT_TOKEN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return note("token", f"{head} didn't say whether it asks for one", "try again")
    if done.returncode == 0:
        return failed(
            "token",
            f"{head} lets in whoever reaches it",
            "start Ray with RAY_AUTH_MODE=token and ~/.ray/auth_token on every node "
            "(cluster/README.md)",
        )
    if "uthenti" in done.stderr:
        return ok("token", f"{head} refuses whoever shows none")
    return note("token", f"{head} didn't say whether it asks for one", "try again")
