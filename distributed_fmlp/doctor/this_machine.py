"""Checks the machine that it runs on: would a sweep and a service work here?"""

from __future__ import annotations

import errno
import platform
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from distributed_fmlp.doctor import node_facts
from distributed_fmlp.doctor.cluster_nodes import ExaminedNode
from distributed_fmlp.doctor.data_present import check_data
from distributed_fmlp.doctor.findings import Finding, failed, note, ok
from distributed_fmlp.doctor.node_checks import check_this_node
from distributed_fmlp.doctor.shared_storage import check_storage_here
from distributed_fmlp.errors import UserError
from distributed_fmlp.ray_session import ray_session

SERVE_PORT = 8000
CONSTRAINTS = Path(node_facts.__file__).parents[2] / "constraints.txt"


def check_this_machine(storage: str | None, data_dir: str | None) -> list[Finding]:
    """All checks of this machine; nothing is left behind."""
    facts = node_facts.gather_facts([".", tempfile.gettempdir()], data_dir)
    node = ExaminedNode(
        node_id="",
        address="127.0.0.1",
        is_head=True,
        cpus=facts["cpus"],
        gpus=facts["torch"].get("gpus", 0),
        ports=[],
        facts=facts,
    )
    return [
        ok("Python", f"{platform.python_version()} ({facts['executable']})"),
        *_versions(facts["libraries"]),
        *check_this_node(node),
        _ray_starts(),
        check_storage_here(storage or "results"),
        *check_data(data_dir),
        _port(SERVE_PORT),
    ]


def _versions(installed: dict[str, str]) -> list[Finding]:
    known = read_constraints(CONSTRAINTS)
    missing = [name for name in node_facts.LIBRARIES if name not in installed]
    if missing:
        return [
            failed(
                "packages",
                f"{', '.join(missing)} not installed",
                "pip install --constraint constraints.txt --editable . in the checkout",
            )
        ]
    shown = f"Ray {installed['ray']}, torch {installed['torch']}"
    if not known:
        return [ok("packages", shown)]
    others = [
        f"{name} {version} ({known[name]})"
        for name, version in installed.items()
        if name in known and version.partition("+")[0] != known[name]
    ]
    if others:
        return [
            note(
                "packages",
                f"not those of constraints.txt: {', '.join(others)}",
                "figures can differ in their last digits, and a cluster must have the same",
            )
        ]
    return [ok("packages", f"{shown}, and the others as in constraints.txt")]


def read_constraints(path: Path) -> dict[str, str]:
    """Version by name from lines `name==version`; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, version in pairs}


def _ray_starts() -> Finding:
    started = time.monotonic()
    try:
        with ray_session(None):
            pass
    except UserError as error:
        return failed("Ray", str(error), "without it neither a sweep nor a service runs")
    return ok("Ray", f"starts and stops, in {time.monotonic() - started:.1f} s")


def _port(port: int) -> Finding:
    server: Any = None
    try:
        server = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return note("ports", f"{port} is taken", "give the service another one with --port")
        return failed("ports", f"{port} can't be listened on ({error.strerror})", "give --port")
    else:
        return ok("ports", f"{port} is free for the service")
    finally:
        if server is not None:
            server.close()
