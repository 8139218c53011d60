"""What other machines reach on a cluster's nodes, and whether it lets in who shows no token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distributed_fmlp.doctor.cluster_nodes import ExaminedNode, ask
from distributed_fmlp.doctor.findings import Finding, failed, note, ok

# Ray's own, which ask for the token where the cluster does: then they are as open as the ports of
# the GCS and the raylets, which must be on the network, and Ray gives no way to keep them off it.
_RAY_PORTS = {8265: "the dashboard", 10001: "Ray Client"}
# These ask nobody for anything.
_STATUS_PORTS = {9101: "HAProxy's metrics", 8404: "HAProxy's status"}
_SERVE_PORT = 8000
_FIREWALL = "let a firewall or security group keep everyone but the cluster's nodes from it"


def ask_services(nodes: Sequence[ExaminedNode]) -> dict[str, bool | None]:
    """By node id, where a service is on the network: whether it answers without a token."""
    return ask([node for node in nodes if _serves(node)], "lets_anyone_in", _SERVE_PORT)


def _serves(node: ExaminedNode) -> bool:
    return node.error is None and _SERVE_PORT in (node.facts["open_ports"] or ())


def check_open_ports(
    nodes: Sequence[ExaminedNode], lets_in: Mapping[str, bool | None], *, protected: bool
) -> list[Finding]:
    """What other machines reach, as far as no firewall is between; `protected` by Ray's token.

    `lets_in` says by node id whether the service there answers without a token.
    """
    found = []
    for node in nodes:
        if node.error is not None or node.facts["open_ports"] is None:
            continue
        for port in node.facts["open_ports"]:
            what = _RAY_PORTS.get(port) or _STATUS_PORTS.get(port)
            if port == _SERVE_PORT:
                told = f"{node.name} serves on every interface (port {port})"
                advice = "let a load balancer alone reach it"
                if lets_in.get(node.node_id):
                    told += " and asks for no token"
                    advice += ", and give it a token (args.token_file, or FMLP_API_TOKEN)"
                    found.append(failed("open ports", told, advice))
                else:
                    found.append(note("open ports", told, advice))
            elif what is not None:
                told = f"{node.name} has {what} on every interface (port {port})"
                if port in _RAY_PORTS and protected:
                    found.append(note("open ports", f"{told}, for who shows the token", _FIREWALL))
                else:
                    found.append(failed("open ports", told, _FIREWALL))
    if any(finding.verdict == "FAILED" for finding in found):
        return found
    if protected:
        return [*found, ok("open ports", "no port beyond loopback that lets in who shows no token")]
    # The finding on the token says what of Ray's own ports; these are the others.
    return [*found, ok("open ports", "neither dashboard nor status page beyond loopback")]
