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
# Metrics of the autoscaler and of the dashboard, beside a port of each node's own: Ray opens them
# to all, with no token and no setting that would keep them on loopback.
_METRICS_PORTS = (44217, 44227)
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
    known, service_known = 0, True
    for node in nodes:
        if node.error is not None:
            continue
        if node.facts["open_ports"] is None:
            told = f"what {node.name} listens on isn't told by its system"
            found.append(note("open ports", told, "look at it there"))
            continue
        known += 1
        for port in node.facts["open_ports"]:
            if port == _SERVE_PORT:
                found.append(_service(node, lets_in.get(node.node_id)))
                service_known &= lets_in.get(node.node_id) is not None
            elif (finding := _one_of_rays(node, port, protected)) is not None:
                found.append(finding)
        found += _metrics(node)
    if known == 0 or any(finding.verdict == "FAILED" for finding in found):
        return found
    if protected:
        judged = "Ray's control ports" + (" or the service's" if service_known else "")
        return [*found, ok("open ports", f"none of {judged} lets in who shows no token")]
    # The finding on the token says what of Ray's own ports; these are the others.
    return [*found, ok("open ports", "neither dashboard nor status page beyond loopback")]


def _service(node: ExaminedNode, lets_in: bool | None) -> Finding:
    told = f"{node.name} serves on every interface (port {_SERVE_PORT})"
    advice = "let a load balancer alone reach it"
    if lets_in:
        advice += ", and give it a token (args.token_file, or FMLP_API_TOKEN)"
        return failed("open ports", f"{told} and asks for no token", advice)
    if lets_in is None:
        told += " and didn't say whether it asks for a token"
    return note("open ports", told, advice)


def _one_of_rays(node: ExaminedNode, port: int, protected: bool) -> Finding | None:
    what = _RAY_PORTS.get(port) or _STATUS_PORTS.get(port)
    if what is None:
        return None
    told = f"{node.name} has {what} on every interface (port {port})"
    if port in _RAY_PORTS and protected:
        return note("open ports", f"{told}, for who shows the token", _FIREWALL)
    return failed("open ports", told, _FIREWALL)


def _metrics(node: ExaminedNode) -> list[Finding]:
    """A note on the ports where Ray counts things for everyone: nothing can be done there."""
    wanted = {node.metrics_port, *_METRICS_PORTS}
    ports = [str(port) for port in node.facts["open_ports"] if port in wanted]
    if not ports:
        return []
    where = f"port{'s' if len(ports) > 1 else ''} {', '.join(ports)}"
    told = f"{node.name} has Ray's metrics, for whoever reaches it ({where})"
    return [note("open ports", told, _FIREWALL)]
