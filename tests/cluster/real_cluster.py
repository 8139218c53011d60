"""A Ray cluster that `ray up` makes from cluster/onprem.yaml, on pseudo-hosts."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.hosts import ROOT, Host, Hosts

BIN = Path(sys.executable).parent
PROJECT = "fmlp"
SERVICE_PORT = 8000
_RAY_START = "--num-cpus=1 --object-store-memory=200000000 --disable-usage-stats"
# Ray's own count in every raylet; `ray memory` sums it up over the nodes.
_STORES = """
import json, ray
from ray._private.internal_api import node_stats
ray.init("auto", logging_level="ERROR")
told = {}
for node in ray.nodes():
    if node["Alive"]:
        asked = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
        told[node["NodeManagerHostname"]] = (
            asked.cumulative_created_objects, asked.cumulative_created_bytes
        )
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Store:
    """Of one node's object store: all objects and bytes since Ray was started there."""

    objects: int
    bytes: int


class RealCluster:
    """The hosts, and what a user does with them from a laptop."""

    def __init__(self, hosts: Hosts, head: str, workers: list[str]) -> None:
        self.hosts = hosts
        self.laptop, self.head = hosts["laptop"], hosts[head]
        self.workers = [hosts[name] for name in workers]
        self.token, self.api_token = secrets.token_hex(32), secrets.token_hex(32)
        self.file = self.laptop.home / "onprem.yaml"
        self._prepare()

    @property
    def nodes(self) -> list[Host]:
        return [self.head, *self.workers]

    def _prepare(self) -> None:
        """What a user has beforehand: keys, a token, the file with the addresses filled in.

        What can't be had here is a package index: every host's venv is this checkout's own.
        """
        for host in (self.laptop, *self.nodes):
            (host.home / ".ray").mkdir()
            (host.home / ".ray" / "auth_token").touch(mode=0o600)
        (self.laptop.home / ".ray" / "auth_token").write_text(self.token)
        (self.laptop.home / ".fmlp_api_token").touch(mode=0o600)
        (self.laptop.home / ".fmlp_api_token").write_text(self.api_token)
        for host in self.nodes:
            (host.home / PROJECT).mkdir()
            (host.home / PROJECT / ".venv").symlink_to(BIN.parent)
        self.laptop.environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        }
        config = yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text())
        config["cluster_name"] = self.hosts.tag
        config["provider"]["head_ip"] = self.head.address
        config["provider"]["worker_ips"] = [worker.address for worker in self.workers]
        config["min_workers"] = config["max_workers"] = len(self.workers)
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.hosts.key)}
        config["file_mounts"] = {
            target: source if source.startswith("~") else str(ROOT / source)
            for target, source in config["file_mounts"].items()
        }
        commands = config["setup_commands"]
        config["setup_commands"] = [line for line in commands if "pip install" not in line]
        assert len(config["setup_commands"]) == len(commands) - 1
        worker_only = "--resources='{\"worker\": 1}'"
        for key, extra in (
            ("head_start_ray_commands", ""),
            ("worker_start_ray_commands", worker_only),
        ):
            # One machine after all: Ray's workers must not give way to all else on it.
            start = f"export RAY_worker_niceness=0; ray start {_RAY_START} {extra}"
            config[key] = [line.replace("ray start", start) for line in config[key]]
        self.file.write_text(yaml.safe_dump(config))

    def ray(self, command: str, patience: float = 300) -> subprocess.CompletedProcess[str]:
        """A `ray` command of the laptop's user."""
        return self.laptop.run(f"ray {command}", patience=patience)

    def up(self) -> subprocess.CompletedProcess[str]:
        return self.ray(f"up --yes --no-config-cache {self.file}")

    def down(self) -> None:
        """As cluster/README.md says it for machines that are there already."""
        text = (ROOT / "cluster" / "README.md").read_text()
        workers = " ".join(worker.address for worker in self.workers)
        for line in re.findall(r"^(?:ray exec .*ray stop|ray down ).*$", text, flags=re.M):
            if "cluster/onprem.yaml" in line:
                line = line.replace("10.0.0.3 10.0.0.4", workers)
                self.laptop.run(line.replace("cluster/onprem.yaml", str(self.file)))

    def alive(self) -> list[str]:
        """Addresses of the nodes that the head believes alive; none while it doesn't answer."""
        code = (
            "import json, ray; from ray.util.state import list_nodes; "
            "print(json.dumps([n.node_ip for n in list_nodes(address='http://127.0.0.1:8265') "
            "if n.state == 'ALIVE']))"
        )
        done = self.head.run(f"python -c {shlex.quote(code)}", check=False, patience=60)
        if done.returncode != 0:
            return []
        found: list[str] = json.loads(done.stdout.splitlines()[-1])
        return found

    def stores(self) -> dict[str, Store]:
        """What has ever been put into each node's object store, or been copied into it."""
        done = self.head.run(f"python -c {shlex.quote(_STORES)}")
        told = json.loads(done.stdout.splitlines()[-1])
        return {host: Store(*figures) for host, figures in told.items()}

    def wait_for_nodes(self, nodes: list[Host] | None = None, patience: float = 150) -> float:
        """Wait until exactly these (all) nodes are alive; how long it took, in seconds."""
        wanted = sorted(node.address for node in (self.nodes if nodes is None else nodes))
        return wait_until(lambda: sorted(self.alive()) == wanted, patience, f"nodes {wanted}")

    def logs(self) -> dict[str, Any]:
        """Every log file of Ray's on every node, by host and path."""
        return {
            f"{host.name}:{path.relative_to(host.tmp)}": path
            for host in (self.laptop, *self.nodes)
            for path in host.tmp.glob("ray/session_2*/logs/**/*")
            if path.is_file()
        }

    def run_logs(self) -> dict[str, Any]:
        """Every log file of the runs, wherever a sweep was started, by host and path."""
        return {
            f"{host.name}:{path.relative_to(host.home)}": path
            for host in (self.laptop, *self.nodes)
            for path in host.home.glob("results/*/logs/**/*")
            if path.is_file()
        }


def wait_until(holds: Callable[[], object], patience: float, what: str) -> float:
    """Ask every half second; how long it took, in seconds."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > patience:
            raise AssertionError(f"not within {patience:g} s: {what}")
        time.sleep(0.5)
    return time.monotonic() - started
