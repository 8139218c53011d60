"""Keeps the server that Ray Serve runs in each replica to the address that Ray itself uses.

Serve starts a gRPC server in every replica, for calls between deployments, on all interfaces. It
takes pickled objects, so whoever reaches it runs code. No setting says where it listens; on a
private Ray the address here is loopback, on a cluster the one that its nodes know each other by.
"""

from __future__ import annotations

from typing import Any

from distributed_fmlp.errors import ClusterError

_EVERYWHERE = "[::]:"


def keep_replica_to_node_address() -> None:
    """Call in a replica's constructor: Serve starts that server when it returns.

    Raises `ClusterError` when Serve starts it in another way than this knows, rather than let it
    listen everywhere.
    """
    import ray
    import ray.serve._private.replica

    replica: Any = ray.serve._private.replica
    address_of_node: Any = ray.util.get_node_ip_address
    add_port = getattr(replica, "add_port_to_grpc_server", None)
    if add_port is None:
        raise ClusterError(
            f"Ray {ray.__version__} starts its replicas' servers in a way unknown to this program, "
            "and they may listen on every interface; install the version that constraints.txt names"
        )
    if getattr(add_port, "keeps_to_node", False):
        return
    node: str = address_of_node()
    host = f"[{node}]" if ":" in node else node

    def add_port_here(server: Any, address: str) -> int:
        port: int = add_port(server, address.replace(_EVERYWHERE, f"{host}:"))
        return port

    add_port_here.keeps_to_node = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = add_port_here
