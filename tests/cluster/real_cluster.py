"""A Ray cluster that `ray up` makes from cluster/onprem.yaml, on pseudo-hosts."""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cluster.hosts import ROOT, Host, Hosts

BIN = Path(sys.executable).parent
PROJECT = "distributed_fmlp"
SERVICE_PORT = 8000
_RAY_START = "--num-cpus=1 --object-store-memory=200000000 --disable-usage-stats"


class RealCluster:
    """The hosts, and what a user does with them from a laptop."""

    def __init__(self, hosts: Hosts, head: str, workers: list[str]) -> None:
        self.hosts = hosts
        self.laptop, self.head = hosts["laptop"], hosts[head]
        self.workers = [hosts[name] for name in workers]
        self.token = secrets.token_hex(32)
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
        (self.laptop.home / PROJECT).mkdir()  # where the laptop's user works
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
            # One machine after all: Ray's workers must not give way to all else on it. Serve's
            # throughput mode is turned on as serve/README.md says.
            start = f". serve/throughput.sh {SERVICE_PORT}; ray start {_RAY_START} {extra}"
            before = f"export RAY_worker_niceness=0; cd ~/{PROJECT}; "
            config[key] = [line.replace("ray start", before + start) for line in config[key]]
        self.file.write_text(yaml.safe_dump(config))

    def ray(self, command: str, patience: float = 300) -> subprocess.CompletedProcess[str]:
        """A `ray` command of the laptop's user."""
        return self.laptop.run(f"ray {command}", patience=patience)

    def up(self) -> subprocess.CompletedProcess[str]:
        return self.ray(f"up --yes --no-config-cache {self.file}")

    def down(self) -> subprocess.CompletedProcess[str]:
        return self.ray(f"down --yes {self.file}")

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

    def wait_for_nodes(self, nodes: list[Host] | None = None, patience: float = 150) -> float:
        """Wait until exactly these (all) nodes are alive; how long it took, in seconds."""
        wanted = sorted(node.address for node in (self.nodes if nodes is None else nodes))
        return wait_until(lambda: sorted(self.alive()) == wanted, patience, f"nodes {wanted}")

    def project(self, words: str) -> str:
        """A shell command in the project's directory on a node."""
        return f"cd ~/{PROJECT} && {words}"

    def logs(self) -> dict[str, Any]:
        """Every log file of Ray's on every node, by host and path."""
        return {
            f"{host.name}:{path.relative_to(host.tmp)}": path
            for host in (self.laptop, *self.nodes)
            for path in host.tmp.glob("ray/session_2*/logs/**/*")
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
