"""A Ray cluster of several nodes on this machine, in a process of its own; run as a script.

Each line of standard input is a JSON object that adds a node: `address`, and optionally `env`,
`num_cpus`, and `mounts`, directories that the node gets a small file system of its own for (which
takes root). A line with `remove` takes the node with that address away. Each is answered by one
line of JSON. The end of the input ends all of it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from typing import Any


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.2"}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: dict[str, Any] = {}
    tell({"address": cluster.address})
    for line in sys.stdin:
        wanted = json.loads(line)
        if "remove" in wanted:
            node = nodes.pop(wanted["remove"])
            if isinstance(node, subprocess.Popen):
                node.terminate()
                node.wait(60)
            else:
                cluster.remove_node(node)
        elif "mounts" in wanted:
            nodes[wanted["address"]] = start_apart(cluster.address, wanted)
        else:
            nodes[wanted["address"]] = cluster.add_node(
                num_cpus=1,
                node_ip_address=wanted["address"],
                env_vars=wanted.get("env"),
            )
        living = len(nodes) + 1
        wait_for(ray, cluster, living)
        tell({"nodes": living})
    for node in nodes.values():
        if isinstance(node, subprocess.Popen):
            node.terminate()
            node.wait(60)
    cluster.shutdown()


def start_apart(address: str, wanted: dict[str, Any]) -> subprocess.Popen[bytes]:
    """A node that sees small file systems of its own in the place of some directories."""
    mounts = " && ".join(
        f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(path)}"
        for path, size in wanted["mounts"].items()
    )
    start = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--block"),
        *(f"--node-ip-address={wanted['address']}", "--num-cpus=1"),
        *("--object-store-memory=150000000", "--disable-usage-stats"),
        *("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"),
    ]
    return subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", f"{mounts} && exec {shlex.join(start)}"],
        stdout=sys.stderr,
        env={**os.environ, **wanted.get("env", {})},
    )


def wait_for(ray: Any, cluster: Any, n_nodes: int) -> None:
    """Wait until so many nodes are alive."""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        alive = [node for node in cluster.global_state.node_table() if node["Alive"]]
        if len(alive) == n_nodes:
            return
        time.sleep(0.2)
    raise TimeoutError(f"{n_nodes} nodes never were alive at once")


def tell(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
