"""What one machine says about itself; runs on every node, whatever that node has installed.

Sent to the nodes by value, so nothing here may need this package, or more than Python itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = "distributed_fmlp"
LIBRARIES = (
    "ray",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "safetensors",
    "pyarrow",
    "pandas",
    "pydantic",
    "orjson",
)
_TORCH_SECONDS = 120.0
_CONNECT_SECONDS = 5.0
_LISTENING = "0A"  # the state's name in /proc/net/tcp
_DATA_FILE = Path("FashionMNIST") / "raw" / "train-images-idx3-ubyte"


def gather_facts(directories: Sequence[str], data_dir: str | None = None) -> dict[str, Any]:
    """All facts that need no other machine; `directories` are those whose disks are to be known."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "libraries": installed_versions(),
        "package": package_identity(),
        "torch": torch_devices(),
        "cpus": usable_cpus(),
        "memory": available_memory(),
        "disks": {directory: free_disk(directory) for directory in directories},
        "data": data_place(data_dir),
        "open_ports": open_ports(),
        "token": token_care(),
    }


def installed_versions() -> dict[str, str]:
    """Installed versions of the libraries that decide whether nodes work together."""
    found = {}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[library] = importlib.metadata.version(library)
    return found


def package_identity() -> dict[str, str] | None:
    """Version and SHA-256 of the sources of this package as installed here; `None` without it.

    The version alone would not tell two checkouts apart.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    place = Path(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    for path in sorted(place.rglob("*.py")):
        digest.update(path.relative_to(place).as_posix().encode() + b"\0" + path.read_bytes())
    text = (place / "__init__.py").read_text(encoding="utf-8")
    version = next(
        (line.split("=")[1].strip(" \"'") for line in text.splitlines() if "__version__" in line),
        "unknown",
    )
    return {"version": version, "sha256": digest.hexdigest(), "place": str(place)}


def torch_devices() -> dict[str, Any]:
    """How many GPUs PyTorch sees, asked in a process that Ray hasn't hidden them from."""
    code = "import torch; print(torch.cuda.device_count(), torch.version.cuda or '-')"
    environment = {key: value for key, value in os.environ.items() if "VISIBLE_DEVICES" not in key}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TORCH_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": type(error).__name__}
    words = done.stdout.split()
    if done.returncode != 0 or len(words) != 2:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    return {"gpus": int(words[0]), "cuda": words[1], "driver": os.path.exists("/dev/nvidiactl")}


def usable_cpus() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that could be had without swapping, where the system says so."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def free_disk(directory: str) -> dict[str, int] | None:
    """Free and total bytes of the disk that a directory, or the first above it that is, lies on."""
    path = Path(directory).expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return {"free": usage.free, "total": usage.total}


def data_place(data_dir: str | None) -> str | None:
    """A directory here that holds FashionMNIST's files, which are not read."""
    for root in (data_dir, os.environ.get("FMLP_DATA_DIR")):
        if root and any(Path(root, f"{_DATA_FILE}{end}").is_file() for end in ("", ".gz")):
            return root
    return None


def open_ports() -> list[int] | None:
    """TCP ports that something here listens on beyond loopback; `None` where that isn't known."""
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            if table.endswith("tcp"):
                return None
            continue
        for line in lines:
            local, state = line.split()[1], line.split()[3]
            address, _, port = local.partition(":")
            if state == _LISTENING and not _is_loopback(address):
                found.add(int(port, 16))
    return sorted(found)


def lets_anyone_in(port: int) -> bool | None:
    """Whether a service here tells who shows no token about its model; `None`: it doesn't say."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_CONNECT_SECONDS)
    try:
        connection.request("GET", "/v2/models/fmlp/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return None if status >= 500 else status not in (401, 403)


def _is_loopback(address: str) -> bool:
    """Whether an address of /proc/net/tcp, whose words are little-endian, is 127.0.0.0/8 or ::1."""
    if len(address) == 8:
        return address.endswith("7F")
    mapped = address.startswith("0000000000000000FFFF0000")
    return address == "00000000000000000000000001000000" or (mapped and address.endswith("7F"))


def token_care() -> dict[str, Any]:
    """How this node keeps Ray's token; the token itself stays here."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path("~").expanduser() / ".ray" / "auth_token"
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    mode = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        mode = stat.S_IMODE(path.stat().st_mode)
        token = token or path.read_text().strip()
    return {
        "mode": os.environ.get("RAY_AUTH_MODE"),
        "file": str(path) if mode is not None else None,
        "file_mode": mode,
        "told_to_processes": bool(token) and token.encode() in _command_lines(),
    }


def _command_lines() -> bytes:
    """The command lines of all processes that this one may see."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    if lines:
        return b"\n".join(lines)
    done = subprocess.run(["ps", "-axo", "args"], capture_output=True, check=False)
    return done.stdout


def unreachable(addresses: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Those of `addresses` that don't take a connection from here."""

    def fails(address: tuple[str, int]) -> bool:
        try:
            socket.create_connection(address, _CONNECT_SECONDS).close()
        except OSError:
            return True
        return False

    with concurrent.futures.ThreadPoolExecutor(max_workers=32) as pool:
        return [
            address
            for address, bad in zip(addresses, pool.map(fails, addresses), strict=True)
            if bad
        ]


def clock() -> float:
    """Seconds since 1970, as this machine counts them."""
    return time.time()
