"""Who gets in: a cluster file's ports, its token, and what its machines may do."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed_fmlp.doctor.cluster_file import ClusterFile
from distributed_fmlp.doctor.findings import Finding, failed, note, ok

SSH = 22
_DASHBOARD = re.compile(r"--dashboard-host[ =]+[\"']?([^\s\"';&|]+)")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TOKEN_ON = re.compile(r"RAY_AUTH_MODE=[\"']?token\b")
_TOKEN_ITSELF = re.compile(r"(?:RAY_AUTH|FMLP_API)_TOKEN[=:]\s*[\"']?[^\s\"'$]")
_LEAST_TOKEN = 16  # characters; a shorter text is in a file by chance
# Networks wider than the widest private ones (10.0.0.0/8, fc00::/7) are the world, or much of it.
_WIDEST = {4: 8, 6: 7}
# Who says what the world reaches where a cluster file can't, and how to see it.
_FIREWALLS = {
    "gcp": ("the network's firewall", "gcloud compute firewall-rules list"),
    "local": ("the machines' own firewall", "cluster/README.md, on machines that are there"),
}


def check_access(file: ClusterFile) -> list[Finding]:
    """Open ports, the token, and the rights of the machines."""
    return [*_dashboard(file), *_world(file), *_token(file), *_rights(file)]


def _dashboard(file: ClusterFile) -> list[Finding]:
    hosts = [host for text in file.starts("head") for host in _DASHBOARD.findall(text)]
    bad = [host for host in hosts if host not in _LOOPBACK]
    if not bad:
        return [ok("dashboard", "on the head's loopback alone")]
    default = not file.written.get("head_start_ray_commands")
    whose = ", Ray's default for this provider" if default else ""
    return [
        failed(
            "dashboard",
            f"listens on {host}{whose}: it runs jobs for whoever reaches it",
            "start the head with --dashboard-host=127.0.0.1 and use the tunnel of ray dashboard",
        )
        for host in bad
    ]


def _world(file: ClusterFile) -> list[Finding]:
    """Ports other than SSH's that everyone may reach."""
    if file.provider != "aws":
        return [
            note(
                "open ports",
                f"what {whose} lets in can't be seen in this file",
                f"let it keep the world from all but SSH ({how})",
            )
            for whose, how in [_FIREWALLS.get(file.provider, ("the firewall", "cluster/README.md"))]
        ]
    bad = [
        ports
        for rule in _rules(file)
        if any(_is_world(_cidr(source)) for source in _sources(rule))
        for ports in [_ports(rule)]
        if ports != str(SSH)
    ]
    if bad:
        return [
            failed(
                "open ports",
                f"the whole world reaches {ports}",
                "leave that rule out: use ray dashboard, ray attach --port-forward, or a load "
                "balancer",
            )
            for ports in bad
        ]
    # Then Ray makes no group for that type, and what is in it is written elsewhere.
    own = [
        name
        for name, kind in file.node_types.items()
        for config in [kind.get("node_config") or {}]
        if config.get("SecurityGroupIds") or config.get("NetworkInterfaces")
    ]
    if own:
        return [
            note(
                "open ports",
                f"what the security groups of {', '.join(own)} let in can't be seen in this file",
                "let them keep the world from all but SSH (aws ec2 describe-security-groups)",
            )
        ]
    return [ok("open ports", "none to the world but SSH")]


def _rules(file: ClusterFile) -> Iterator[Mapping[str, Any]]:
    group = file.written["provider"].get("security_group") or {}
    yield from group.get("IpPermissions") or []


def _ports(rule: Mapping[str, Any]) -> str:
    first, last = rule.get("FromPort", 0), rule.get("ToPort", 65535)
    if str(rule.get("IpProtocol")) == "-1" or (first, last) == (0, 65535) or first == -1:
        return "every port"
    other = "" if rule.get("IpProtocol", "tcp") == "tcp" else f"{rule['IpProtocol']} "
    return f"{other}{first}" if first == last else f"{other}{first}-{last}"


def _is_world(cidr: str) -> bool:
    try:
        network = ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return False
    return network.prefixlen < _WIDEST[network.version]


def _sources(rule: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from rule.get("IpRanges") or []
    yield from rule.get("Ipv6Ranges") or []


def _cidr(source: Mapping[str, Any]) -> str:
    return str(source.get("CidrIp") or source.get("CidrIpv6") or "")


def _token(file: ClusterFile) -> list[Finding]:
    roles = ("head", "worker")
    starts = [text for role in roles for text in file.starts(role)]
    text = "\n".join([*file.setup, *starts, *_environments(file)])
    if _TOKEN_ITSELF.search(text) or any(token in file.text for token in _tokens_here(file)):
        return [
            failed(
                "token",
                "is written into the file, from where it gets into logs and process lists",
                "mount it instead (~/.ray/auth_token: ~/.ray/auth_token), and make a new one",
            )
        ]
    found = [
        failed(
            "token",
            f"the {role} is started without RAY_AUTH_MODE=token, so whoever reaches it runs code",
            "export RAY_AUTH_MODE=token before its ray start",
        )
        for role in roles
        if not all(map(_TOKEN_ON.search, file.starts(role)))
    ]
    if found:
        return found
    local = [path for remote, path in file.mounts.items() if remote.endswith("/.ray/auth_token")]
    if not local and "RAY_AUTH_TOKEN_PATH" not in text:
        return [
            failed(
                "token",
                "is asked for, but none is given to the nodes",
                "add ~/.ray/auth_token: ~/.ray/auth_token to file_mounts",
            )
        ]
    for name in local:
        path = Path(os.path.expanduser(name))
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            return [failed("token", f"{name} can be read by others here", f"chmod 600 {name}")]
    return [ok("token", "every node asks for it, and gets it as a file")]


def _tokens_here(file: ClusterFile) -> list[str]:
    """The tokens that the file has copied to the nodes, as they are on this machine."""
    found = []
    for path in file.mounts.values():
        if path.endswith("_token"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found.append(Path(path).expanduser().read_text(encoding="utf-8").strip())
    return [token for token in found if len(token) >= _LEAST_TOKEN]


def _environments(file: ClusterFile) -> list[str]:
    docker = file.written.get("docker") or {}
    keys = ("run_options", "head_run_options", "worker_run_options")
    return [str(option) for key in keys for option in docker.get(key) or []]


def _rights(file: ClusterFile) -> list[Finding]:
    """Clouds give the head wide rights, and the workers none, where the file says nothing."""
    if file.provider not in ("aws", "gcp"):
        return []
    key = "IamInstanceProfile" if file.provider == "aws" else "serviceAccounts"
    found = []
    for name, kind in file.node_types.items():
        if (kind.get("node_config") or {}).get(key):
            continue
        told = (
            f"{name} gets what Ray makes for it, which may do far more than this needs"
            if name == file.head_type
            else f"{name} has no rights of its own, so it can't reach the storage"
        )
        found.append(failed("rights", told, f"give its node_config {key}, as cluster/ does"))
    return found or [ok("rights", "each node type has its own")]
